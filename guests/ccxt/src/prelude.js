// What CCXT takes from its surroundings (time, timers, chance) as functions of the task alone. CCXT captures
// `Date.now` and `setTimeout` while its modules are evaluated, so this module must be imported before it.

const RealDate = Date;
const SEED = 0x2545f491;

let nowMs = 0;
let seed = SEED;
let timers = [];
let timersMade = 0;

/** Sets the clock to `ms` since 1970, forgets all timers, and begins the sequence of random numbers anew. */
export function begin(ms) {
    nowMs = ms;
    seed = SEED;
    timers = [];
}

/** Lets the time come at which the next timer is due, and calls it; false when there is none. */
export function fireNextTimer() {
    if (timers.length === 0) {
        return false;
    }
    const next = timers.reduce((first, timer) => (timer.dueMs < first.dueMs ? timer : first));
    timers = timers.filter((timer) => timer !== next);
    nowMs = Math.max(nowMs, next.dueMs);
    next.call();
    return true;
}

globalThis.Date = class Date extends RealDate {
    constructor(...parts) {
        if (parts.length === 0) {
            super(nowMs);
        } else {
            super(...parts);
        }
    }

    static now() {
        return nowMs;
    }
};

globalThis.setTimeout = (callback, delayMs = 0, ...values) => {
    timersMade += 1;
    timers.push({ id: timersMade, dueMs: nowMs + Math.max(0, Number(delayMs) || 0), call: () => callback(...values) });
    return timersMade;
};

globalThis.clearTimeout = (id) => {
    timers = timers.filter((timer) => timer.id !== id);
};

// Nothing on the way to candles repeats by the clock, and what did would never let a step end.
globalThis.setInterval = () => 0;
globalThis.clearInterval = () => {};

/** A xorshift generator: CCXT uses chance for names of requests only. */
Math.random = () => {
    seed ^= seed << 13;
    seed ^= seed >>> 17;
    seed ^= seed << 5;
    return (seed >>> 0) / 0x1_0000_0000;
};
