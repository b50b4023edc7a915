// The memo is one market of CCXT's, so that the list of all is asked for only once a symbol.

/** The contract's limit. */
const MOST_BYTES = 64 * 1024;

/** What no exchange looks at on the way to candles: most of a market's size. */
const UNUSED = new Set([
    'info',
    'limits',
    'precision',
    'created',
    'active',
    'taker',
    'maker',
    'percentage',
    'tierBased',
    'tiers',
    'feeSide',
    'marginModes',
]);

/** A market as text for the next task; empty when it is too long for one. */
export function memoOf(market, version) {
    const entries = Object.entries(market).filter(
        ([key, value]) => !UNUSED.has(key) && value !== undefined && value !== null,
    );
    const memo = JSON.stringify({ version, market: Object.fromEntries(entries) });
    // No character of it takes more than three bytes.
    return memo.length * 3 > MOST_BYTES ? '' : memo;
}

/** The market of a memo; none when the memo is empty, or of another version or symbol. */
export function marketOf(memo, version, symbol) {
    if (memo === '') {
        return undefined;
    }
    try {
        const known = JSON.parse(memo);
        return known.version === version && known.market.symbol === symbol ? known.market : undefined;
    } catch {
        return undefined;
    }
}
