// CCXT's exchanges, made once.

/** What CCXT changes in its place; all else that it changes on the way to candles it replaces. */
const CHANGED_IN_PLACE = ['commonCurrencies', 'headers', 'options'];

/**
 * A function that gives an exchange by its id, as it was when it was made: none where there is no class of that id.
 *
 * The exchanges are made while the component is built and lie in its initial memory. On demand each step would begin
 * with 30 to 60 ms for its exchange, and a page takes 80 otherwise. What it costs: the file is a third larger (88 MB
 * instead of 65), and an instance begins with 100 MiB instead of 60, of which it shares all but 6 with the file.
 */
export function shelf(classes) {
    const exchanges = new Map(Object.entries(classes).map(([id, Exchange]) => [id, new Exchange()]));
    const originals = new Map();
    return (id) => {
        const exchange = exchanges.get(id);
        if (exchange === undefined) {
            return undefined;
        }
        // At the first use, because copies of all would lie in the initial memory too.
        if (!originals.has(id)) {
            originals.set(id, { ...exchange, ...copies(exchange) });
        }
        const original = originals.get(id);
        for (const name of Object.keys(exchange)) {
            if (!(name in original)) {
                delete exchange[name];
            }
        }
        return Object.assign(exchange, original, copies(original));
    };
}

function copies(exchange) {
    return Object.fromEntries(CHANGED_IN_PLACE.map((name) => [name, copy(exchange[name])]));
}

/** A copy of lists and plain objects, with all else that they hold as it is: options hold functions too. */
function copy(value) {
    if (Array.isArray(value)) {
        return value.map(copy);
    }
    if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) {
        return value;
    }
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, copy(inner)]));
}
