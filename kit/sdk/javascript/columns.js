// Columns of the contract (`rule.wit`) as values of rows, and back.

/** The kinds of columns, and which of a column's values hold them. */
export const TAGS = {
    integer: 'integers',
    float: 'floats',
    boolean: 'booleans',
    timestamp: 'timestamps',
    text: 'texts',
};

const bit = (bits, place) => ((bits[place >> 3] >> (place & 7)) & 1) === 1;

/** A number where it is exact, a BigInt where it is not. */
const exact = (integer) => {
    const number = Number(integer);
    return Number.isSafeInteger(number) ? number : integer;
};

/**
 * The values of a column, one a row; null where the row has none.
 *
 * Loops here and in `tidegate.js` are plain ones over places: in the engine of a component, which does not compile, they
 * cost a third of what functions and iterators cost.
 */
export function valuesOf({ values: { tag, val }, present }, rows) {
    const values = new Array(rows);
    for (let place = 0; place < rows; place += 1) {
        if (present !== undefined && !bit(present, place)) {
            values[place] = null;
        } else if (tag === 'floats') {
            values[place] = val[place];
        } else if (tag === 'texts') {
            values[place] = val.dictionary[val.indexes[place]];
        } else if (tag === 'booleans') {
            values[place] = bit(val, place);
        } else {
            values[place] = exact(val[place]);
        }
    }
    return values;
}

/** A column out of one value a row; null and undefined are rows without a value. */
export function column(name, kind, values) {
    const rows = values.length;
    const present = new Uint8Array((rows + 7) >> 3);
    let count = 0;
    for (let place = 0; place < rows; place += 1) {
        if (values[place] !== null && values[place] !== undefined) {
            present[place >> 3] |= 1 << (place & 7);
            count += 1;
        }
    }
    return {
        name,
        values: { tag: TAGS[kind], val: WRITERS[kind](name, values) },
        present: count === rows ? undefined : present,
    };
}

const WRITERS = { integer: integers, float: floats, boolean: booleans, timestamp: integers, text: texts };

function floats(name, values) {
    const floats = new Float64Array(values.length);
    for (let place = 0; place < values.length; place += 1) {
        const value = values[place];
        if (typeof value === 'number') {
            floats[place] = value;
        } else {
            mustBeAbsent(name, 'float', value);
        }
    }
    return floats;
}

function integers(name, values) {
    const integers = new BigInt64Array(values.length);
    for (let place = 0; place < values.length; place += 1) {
        const value = values[place];
        const integer = Number.isInteger(value) ? BigInt(value) : value;
        if (typeof integer === 'bigint' && BigInt.asIntN(64, integer) === integer) {
            integers[place] = integer;
        } else {
            mustBeAbsent(name, 'integer', value);
        }
    }
    return integers;
}

function booleans(name, values) {
    const bits = new Uint8Array((values.length + 7) >> 3);
    for (let place = 0; place < values.length; place += 1) {
        const value = values[place];
        if (value === true) {
            bits[place >> 3] |= 1 << (place & 7);
        } else if (value !== false) {
            mustBeAbsent(name, 'boolean', value);
        }
    }
    return bits;
}

function texts(name, values) {
    const places = new Map();
    const indexes = new Uint32Array(values.length);
    for (let place = 0; place < values.length; place += 1) {
        const value = values[place];
        if (typeof value === 'string') {
            let index = places.get(value);
            if (index === undefined) {
                index = places.size;
                places.set(value, index);
            }
            indexes[place] = index;
        } else {
            mustBeAbsent(name, 'text', value);
        }
    }
    return { dictionary: [...places.keys()], indexes };
}

function mustBeAbsent(name, kind, value) {
    if (value !== null && value !== undefined) {
        throw new TypeError(`the column \`${name}\` holds values of kind ${kind}, not ${shown(value)}`);
    }
}

/** A value in a sentence. */
export function shown(value) {
    return typeof value === 'bigint' ? `${value}` : (JSON.stringify(value) ?? String(value));
}
