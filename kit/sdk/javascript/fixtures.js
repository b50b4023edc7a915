// Fixtures: rows with what must come of them. Here they run through the rule in Node.js; `tidegate test` runs the same
// files through the component.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

import { column, shown, valuesOf } from './columns.js';
import { Instance } from './tidegate.js';

const FIXTURE_KEYS = ['settings', 'now', 'remember', 'rows'];
const ROW_KEYS = ['in', 'out', 'rejected', 'detail', 'dropped'];
const NOT_FINITE = { NaN, Infinity, '-Infinity': -Infinity };

/** The fixtures of a folder: `{ name, check }` for each `.json` file, whose `check` throws what differs. */
export function fixtures(rule, folder) {
    const files = readdirSync(folder).filter((file) => file.endsWith('.json'));
    if (files.length === 0) {
        throw new Error(`the folder \`${folder}\` has no fixtures`);
    }
    return files.sort().map((file) => ({
        name: file.slice(0, -'.json'.length),
        check: () => check(rule, JSON.parse(readFileSync(join(folder, file), 'utf8'))),
    }));
}

/** Runs one fixture; throws all that differs. */
export function check(rule, fixture) {
    noOthers(fixture, FIXTURE_KEYS, 'the fixture');
    const { settings = {}, now = 0, remember = [], rows } = fixture;
    const instance = new Instance(rule);
    instance.configure(JSON.stringify(settings));
    if (remember.length > 0) {
        const alsoWritten = rule.writes.filter(({ name }) => !rule.reads.some((read) => read.name === name));
        instance.remember(batch([...rule.reads, ...alsoWritten], remember));
    }
    rows.forEach((row, place) => noOthers(row, ROW_KEYS, `row ${place}`));
    const outcome = instance.transform(
        value('now', 'timestamp', now),
        batch(
            rule.reads,
            rows.map((row) => row.in),
        ),
    );
    const differences = rows.flatMap((row, place) => {
        const expected = expectedLines(rule, row, place);
        const actual = actualLines(rule, outcome, place, row.detail !== undefined);
        return expected.join('\n') === actual.join('\n')
            ? []
            : [`row ${place}`, ...expected.map((line) => `- ${line}`), ...actual.map((line) => `+ ${line}`)];
    });
    if (differences.length > 0) {
        throw new Error(`what came out (+) is not what the fixture expects (-)\n${differences.join('\n')}`);
    }
}

function noOthers(object, keys, what) {
    const other = Object.keys(object).find((key) => !keys.includes(key));
    if (other !== undefined) {
        throw new Error(`${what} has the key \`${other}\`, but only ${keys.join(', ')} mean something`);
    }
}

/** Rows as the host would hand them over. */
function batch(columns, rows) {
    for (const row of rows) {
        noOthers(row, columns.map(({ name }) => name), 'a row');
    }
    const present = columns.filter(({ name, optional }) => !optional || rows.some((row) => name in row));
    return {
        rows: rows.length,
        columns: present.map(({ name, kind }) =>
            column(
                name,
                kind,
                rows.map((row) => value(name, kind, row[name])),
            ),
        ),
    };
}

/** A value of a fixture as the rule sees it: a timestamp can be a text of RFC 3339, a float one of `NOT_FINITE`. */
function value(name, kind, given) {
    if (kind === 'timestamp' && typeof given === 'string') {
        const ms = Date.parse(given);
        if (Number.isNaN(ms)) {
            throw new Error(`\`${name}\` is ${shown(given)}, which is no time`);
        }
        return ms;
    }
    return kind === 'float' && Object.hasOwn(NOT_FINITE, given) ? NOT_FINITE[given] : given;
}

function expectedLines({ writes }, { out, rejected, detail, dropped }, place) {
    if ([out, rejected, dropped].filter((one) => one !== undefined).length !== 1 || dropped === false) {
        throw new Error(`row ${place} needs one of \`out\`, \`rejected\` and \`dropped: true\``);
    }
    if (rejected !== undefined) {
        return [detail === undefined ? `rejected ${rejected}` : `rejected ${rejected}: ${detail}`];
    }
    if (dropped !== undefined) {
        return ['dropped'];
    }
    noOthers(out, writes.map(({ name }) => name), `\`out\` of row ${place}`);
    return writes.map(({ name, kind }) => `${name} ${line(value(name, kind, out[name]))}`);
}

function actualLines({ reasons }, { rejected, dropped, columns }, place, withDetail) {
    const reject = rejected.find(({ row }) => row === place);
    if (reject !== undefined) {
        const reason = reasons[reject.reason];
        return [withDetail ? `rejected ${reason}: ${reject.detail}` : `rejected ${reason}`];
    }
    if (dropped.includes(place)) {
        return ['dropped'];
    }
    return columns.map((one) => `${one.name} ${line(valuesOf(one, place + 1)[place])}`);
}

const line = (given) => (typeof given === 'number' ? String(given) : shown(given ?? null));
