// Write a rule of Tidegate as a function of one row. `tidegate build` replaces the files of this folder by its own.

import { TAGS, column, shown, valuesOf } from './columns.js';
import { checkProperties, complete, schema } from './settings.js';

/** The row goes on, with these values in columns that the rule writes. */
export const keep = (written = {}) => ({ verdict: 'keep', written });

/** The row goes to the dead letter: one of the rule's reasons, and what is wrong with it, with the values. */
export const reject = (reason, detail = '') => ({ verdict: 'reject', reason, detail });

/** The row is left out on purpose, such as a duplicate: counted, not stored. */
export const drop = () => ({ verdict: 'drop' });

/**
 * Declares a rule.
 *
 * `reads` and `writes` name columns and their kinds: `integer`, `float`, `boolean`, `timestamp` (milliseconds since
 * 1970) or `text`; `float?` is a column that not every pipeline has. `settings` names what a pipeline file may set,
 * each as a JSON Schema with a `default`, or it must be set. `reasons` are names of lower-case letters, digits and `_`.
 *
 * `decide(row, settings, now, memory)` answers `keep`, `reject` or `drop`. `row` has a value or null for each column
 * that is read; integers beyond 2^53 are BigInts. A column that is also read keeps its value where `keep` does not name
 * it; null takes it away. `now` is the only clock, in milliseconds since 1970. What it throws makes the row a reject.
 *
 * A rule that remembers has `memory(settings)`, which makes what an instance keeps, and `remember(row, memory,
 * settings)`, which takes a row that the pipeline has written, oldest first. It must keep nothing that `remember` could
 * not rebuild, and nothing outside of its memory.
 */
export function rule(definition) {
    const { name, version, summary, settings = {}, reasons = [], reads, writes = {}, decide } = definition;
    for (const [key, value] of Object.entries({ name, version, summary })) {
        if (typeof value !== 'string') {
            throw new TypeError(`the rule's \`${key}\` is ${shown(value)}, not a text`);
        }
    }
    if (typeof decide !== 'function') {
        throw new TypeError('the rule has no function `decide`');
    }
    checkProperties(settings);
    const { memory, remember } = definition;
    return Object.freeze({
        name,
        version,
        summary,
        settings,
        reasons,
        reads: kinds(reads ?? {}),
        writes: kinds(writes),
        decide,
        memory,
        remember,
    });
}

function kinds(columns) {
    return Object.entries(columns).map(([name, word]) => {
        const optional = word.endsWith('?');
        const kind = optional ? word.slice(0, -1) : word;
        if (!Object.hasOwn(TAGS, kind)) {
            const known = Object.keys(TAGS).join(', ');
            throw new TypeError(`the column \`${name}\` is of kind \`${word}\`, which is none of ${known}`);
        }
        return { name, kind, optional };
    });
}

/** What the host is told about a rule. */
export function describe({ name, version, summary, settings, reasons, reads, writes }) {
    return { name, version, summary, reads, writes, reasons, settings: JSON.stringify(schema(name, settings)) };
}

/** One instance of a rule, driven as the host drives it, with batches of columns. Whatever is wrong is thrown. */
export class Instance {
    #rule;
    #settings;
    #memory;

    constructor(rule) {
        this.#rule = rule;
    }

    /** Takes settings as JSON; says whether the rule remembers with them. */
    configure(settings) {
        this.#settings = complete(this.#rule.settings, JSON.parse(settings));
        this.#memory = this.#rule.memory?.(this.#settings);
        return this.#rule.remember !== undefined;
    }

    /** Decides a batch; `now` in milliseconds since 1970. */
    transform(now, batch) {
        const { reasons, writes, decide } = this.#rule;
        const outcome = { rejected: [], dropped: [], columns: [] };
        const read = this.#columns(batch);
        // A column that is read too keeps its value where the rule does not name it.
        const written = writes.map(({ name }) => read.get(name)?.slice() ?? new Array(batch.rows).fill(null));
        const places = Object.create(null);
        writes.forEach(({ name }, index) => {
            places[name] = index;
        });
        const [names, columns] = [[...read.keys()], [...read.values()]];
        for (let place = 0; place < batch.rows; place += 1) {
            const answer = decide(row(names, columns, place), this.#settings, now, this.#memory) ?? KEEP;
            if (answer.verdict === 'keep') {
                for (const name in answer.written) {
                    const index = places[name];
                    if (index === undefined) {
                        throw new Error(`\`keep\` names the column \`${name}\`, which is not in \`writes\``);
                    }
                    if (answer.written[name] !== undefined) {
                        written[index][place] = answer.written[name];
                    }
                }
            } else if (answer.verdict === 'reject') {
                outcome.rejected.push(rejected(place, answer, reasons));
            } else if (answer.verdict === 'drop') {
                outcome.dropped.push(place);
            } else {
                throw new TypeError(`\`decide\` answered ${shown(answer)}, not \`keep\`, \`reject\` or \`drop\``);
            }
        }
        outcome.columns = writes.map(({ name, kind }, index) => column(name, kind, written[index]));
        return outcome;
    }

    /** Takes rows that the pipeline has written. */
    remember(batch) {
        const { remember } = this.#rule;
        const read = this.#columns(batch);
        const [names, columns] = [[...read.keys()], [...read.values()]];
        for (let place = 0; remember !== undefined && place < batch.rows; place += 1) {
            remember(row(names, columns, place), this.#memory, this.#settings);
        }
    }

    /** The values of a batch by the names of their columns. */
    #columns({ rows, columns }) {
        const read = new Map(columns.map((one) => [one.name, valuesOf(one, rows)]));
        for (const { name } of this.#rule.reads) {
            // An optional column that the pipeline does not have is null like values that are missing.
            if (!read.has(name)) {
                read.set(name, new Array(rows).fill(null));
            }
        }
        return read;
    }
}

const KEEP = keep();

function row(names, columns, place) {
    const row = {};
    for (let index = 0; index < names.length; index += 1) {
        row[names[index]] = columns[index][place];
    }
    return row;
}

function rejected(row, { reason, detail }, reasons) {
    const index = reasons.indexOf(reason);
    if (index < 0) {
        throw new Error(`\`reject\` names the reason \`${reason}\`, which is not in \`reasons\``);
    }
    return { row, reason: index, detail: String(detail) };
}
