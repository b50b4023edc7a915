// What the contract makes of CCXT's rows of candles.

/** The lengths of the contract's timeframes. */
export const TIMEFRAMES_MS = Object.freeze({
    '1m': 60_000,
    '3m': 180_000,
    '5m': 300_000,
    '15m': 900_000,
    '30m': 1_800_000,
    '1h': 3_600_000,
    '2h': 7_200_000,
    '4h': 14_400_000,
    '6h': 21_600_000,
    '8h': 28_800_000,
    '12h': 43_200_000,
    '1d': 86_400_000,
});

/** CCXT's row after its time. */
const VALUES = ['open', 'high', 'low', 'close', 'volume'];

/**
 * The columns of a `candles` of the contract, without its memo.
 *
 * `rows` are CCXT's `[milliseconds, open, high, low, close, volume]`, in any order; `sinceMs`, `untilMs` and `nowMs`
 * are the task's. CCXT does not say whether a candle is closed: it is when its time is over, or when a later one is
 * there.
 */
export function candles(rows, { sinceMs, untilMs, nowMs, timeframeMs }) {
    const unreadable = [];
    // The last of two rows of one time stays.
    const byTime = new Map();
    for (const row of rows) {
        const why = fault(row, timeframeMs);
        if (why === undefined) {
            byTime.set(row[0], row);
        } else {
            unreadable.push(why);
        }
    }
    const latestMs = Math.max(...byTime.keys(), -Infinity);
    const isWanted = (ms) => ms >= sinceMs && ms < untilMs && (ms + timeframeMs <= nowMs || ms < latestMs);
    const wanted = [...byTime.values()].filter(([ms]) => isWanted(ms)).sort((a, b) => a[0] - b[0]);
    const column = (index) => Float64Array.from(wanted, (row) => row[index]);
    return {
        timestamps: BigInt64Array.from(wanted, (row) => BigInt(row[0])),
        ...Object.fromEntries(VALUES.map((name, index) => [name, column(index + 1)])),
        trades: new BigInt64Array(0),
        quoteVolume: new Float64Array(0),
        vwap: new Float64Array(0),
        unreadable,
    };
}

/** One sentence that says why a row is no candle; none when it is one. */
function fault(row, timeframeMs) {
    if (!Array.isArray(row) || !Number.isSafeInteger(row[0])) {
        return `a candle has no time: ${shown(row)}`;
    }
    if (row[0] % timeframeMs !== 0) {
        return `the time of a candle is no multiple of its timeframe: ${shown(row)}`;
    }
    const missing = VALUES.find((_, index) => !Number.isFinite(row[index + 1]));
    return missing === undefined ? undefined : `a candle has no ${missing}: ${shown(row)}`;
}

function shown(row) {
    return (JSON.stringify(row) ?? String(row)).slice(0, 120);
}
