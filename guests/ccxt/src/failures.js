// What the contract makes of CCXT's errors.

import { errors } from 'ccxt';

const {
    AuthenticationError,
    BadResponse,
    BadSymbol,
    DDoSProtection,
    InvalidNonce,
    NotSupported,
    OperationFailed,
    RateLimitExceeded,
    RestrictedLocation,
} = errors;

/** A key is needed; forbidden; not for legal reasons. */
const REFUSALS = new Set([401, 403, 451]);
/** CCXT puts whole bodies into its messages. */
const MOST_CHARACTERS = 300;

/**
 * A `failure` of the contract.
 *
 * `error` is what CCXT threw, `answer` the answer of the contract that made it do so, where one did, and `nowMs` the
 * task's time.
 */
export function failure(error, answer, nowMs) {
    const detail = sentence(error);
    const status = answer?.status ?? 0;
    if (error instanceof BadSymbol) {
        return { tag: 'bad-symbol', val: detail };
    }
    if (isOne(error, [RateLimitExceeded, DDoSProtection]) || status === 429 || status === 418) {
        return { tag: 'throttled', val: { until: throttledUntil(answer, nowMs), detail } };
    }
    if (REFUSALS.has(status) || isOne(error, [AuthenticationError, NotSupported, RestrictedLocation])) {
        return { tag: 'refused', val: detail };
    }
    // What CCXT calls a failed operation may succeed later; only these two are about what was said.
    const mayPass = error instanceof OperationFailed && !isOne(error, [BadResponse, InvalidNonce]);
    if (status >= 500 || status === 408 || mayPass) {
        return { tag: 'unavailable', val: detail };
    }
    return { tag: 'unreadable', val: detail };
}

function isOne(error, classes) {
    return classes.some((kind) => error instanceof kind);
}

/** One line that says what kind of error it is and what it says, cut where the exchange's body becomes long. */
function sentence(error) {
    const isError = error instanceof Error;
    const text = isError ? `${error.name}: ${error.message}` : `CCXT threw a value of type ${typeof error}`;
    // Only what may be shown is worth being cleaned: a message can hold megabytes.
    const line = text.slice(0, 2 * MOST_CHARACTERS).replace(/\s+/g, ' ').trim();
    return line.length > MOST_CHARACTERS ? `${line.slice(0, MOST_CHARACTERS)}…` : line;
}

/** Until when nothing may be asked, in milliseconds since 1970, as `retry-after` or, like Binance, the body has it. */
function throttledUntil(answer, nowMs) {
    const header = answer?.headers.find(({ name }) => name === 'retry-after')?.value.trim() ?? '';
    const untilMs = /^\d+$/.test(header) ? nowMs + 1000 * Number(header) : Date.parse(header);
    if (Number.isSafeInteger(untilMs)) {
        return BigInt(untilMs);
    }
    const inBody = /until (\d{13})\b/.exec(answer?.body ?? '');
    return inBody === null ? undefined : BigInt(inBody[1]);
}
