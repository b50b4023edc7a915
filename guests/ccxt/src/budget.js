// CCXT measures a request against `rateLimit`, the milliseconds after which the next request of cost 1 may follow. Here
// a unit is one such millisecond: a request takes `cost * rateLimit` of them, and one comes back each millisecond.

/** A long window, so that no single request is larger than it. */
const WINDOW_MS = 60_000;
/** Nothing is asked more often than this, whatever CCXT says. */
const LEAST_RATE_LIMIT_MS = 20;
/** A second's worth at once: CCXT itself lets only one request through, which no exchange asks for. */
const BURST = 1_000;

function rateLimitMs(exchange) {
    return Math.max(LEAST_RATE_LIMIT_MS, Number(exchange.rateLimit) || 0);
}

/** The units of the most expensive request that is told to the host, which must fit into what is free at once. */
function burst(exchange) {
    return Math.min(WINDOW_MS, Math.max(BURST, Math.ceil(2 * rateLimitMs(exchange))));
}

/** A `budget` of the contract. */
export function budget(exchange) {
    return { units: WINDOW_MS, windowMs: WINDOW_MS, burst: burst(exchange), usedHeader: undefined };
}

/** What a request that costs `cost` in CCXT's measure takes of the budget. */
export function units(exchange, cost) {
    const measured = Number.isFinite(cost) && cost > 0 ? cost : 1;
    return Math.min(burst(exchange), Math.max(1, Math.ceil(measured * rateLimitMs(exchange))));
}
