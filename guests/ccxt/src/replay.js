// Runs a piece of CCXT over the answers that are there: the same answers lead to the same requests, every time.

import { units } from './budget.js';
import { fireNextTimer } from './prelude.js';

/** The contract's limit of requests in a step. */
const MAX_REQUESTS = 16;
/** After so many turns of the microtask queue without a request or a result, all that can go on has gone on. */
const QUIET_TURNS = 256;
/** The same while there is no request to hand out: then the step fails, so it waits for the longest chain. */
const STUCK_TURNS = 4_096;
/** CCXT sleeps between its own attempts; what sleeps more often than this waits for something that never comes. */
const MAX_TIMERS = 32;

/** The host adds these itself. */
const HEADERS_OF_HOST = new Set(['user-agent', 'accept-encoding']);

/** The exchange has said something that is no JSON. */
export class NoJson extends Error {
    name = 'NoJson';
}

/** An HTTP status that stands for itself: the body says nothing that CCXT knows. */
export class HttpFailure extends Error {
    name = 'HttpFailure';
}

/** CCXT waits for something that is neither a request nor a timer, or the host gave other answers than asked for. */
export class Stuck extends Error {
    name = 'Stuck';
}

/**
 * Calls `work`, an asynchronous function that makes `exchange` fetch, and gives `{ value }` or `{ error, answer }` (the
 * answer that led to it, where one did) once it ends, or `{ requests }` when it needs more than `answers`.
 *
 * Requests are held until nothing goes on without an answer, and then get theirs together, in their order. So a step
 * repeats what the steps before it did, request by request, although the answers of those are there at once.
 */
export async function replay(exchange, work, answers) {
    const waiting = []; // requests without an answer, the oldest first
    const blamed = new WeakMap();
    let outcome;
    let events = 0;
    const costs = collectCosts(exchange);

    exchange.fetch = async (url, method = 'GET', headers = undefined, body = undefined) => {
        const sentHeaders = exchange.setHeaders(exchange.extend(exchange.headers, headers));
        const request = requestRecord(url, method, sentHeaders, body, units(exchange, costs.shift()));
        const answer = await new Promise((resolve) => {
            waiting.push({ request, resolve });
            events += 1;
        });
        try {
            return await interpret(exchange, answer, url, method, sentHeaders, body);
        } catch (error) {
            if (typeof error === 'object' && error !== null) {
                blamed.set(error, answer);
            }
            throw error;
        }
    };
    Promise.resolve()
        .then(work)
        .then(
            (value) => ({ value }),
            (error) => ({ error, answer: blamed.get(error) }),
        )
        .then((result) => {
            outcome = result;
            events += 1;
        });

    let answersUsed = 0;
    let timersFired = 0;
    for (;;) {
        await quiet(
            () => events,
            () => (waiting.length > 0 || outcome !== undefined ? QUIET_TURNS : STUCK_TURNS),
        );
        if (outcome !== undefined) {
            return outcome;
        }
        if (waiting.length === 0) {
            timersFired += 1;
            if (timersFired <= MAX_TIMERS && fireNextTimer()) {
                continue;
            }
            return { error: new Stuck('CCXT neither asks for anything nor comes to an end') };
        }
        const together = waiting.splice(0, MAX_REQUESTS);
        if (answersUsed === answers.length) {
            return { requests: together.map(({ request }) => request) };
        }
        if (answers.length - answersUsed < together.length) {
            return { error: new Stuck(`${answers.length} answers do not end with a step's requests`) };
        }
        for (const { resolve } of together) {
            resolve(answers[answersUsed]);
            answersUsed += 1;
        }
    }
}

/** Waits until `events` has stood still for `turns` turns of the microtask queue. */
async function quiet(events, turns) {
    let seen = events();
    for (let turn = 0; turn < turns(); turn += 1) {
        await null;
        if (events() !== seen) {
            seen = events();
            turn = 0;
        }
    }
}

/**
 * Lets CCXT say what each request costs instead of waiting for it, which is the host's business. Gives the costs, in
 * CCXT's own measure and the order of the requests.
 */
function collectCosts(exchange) {
    const costs = [];
    exchange.enableRateLimit = true;
    exchange.throttle = async (cost) => {
        costs.push(cost);
    };
    return costs;
}

/** A `request` of the contract. */
function requestRecord(url, method, headers, body, cost) {
    const sent = Object.entries(headers).filter(
        ([name, value]) => value !== undefined && !HEADERS_OF_HOST.has(name.toLowerCase()),
    );
    return {
        method,
        url,
        headers: sent.map(([name, value]) => ({ name, value: String(value) })),
        body: body === undefined || body === null || body === '' ? undefined : String(body),
        cost,
    };
}

/** What CCXT makes of an `answer` of the contract; throws when CCXT takes it for a failure, or when it is none. */
async function interpret(exchange, answer, url, method, headers, body) {
    // What CCXT does itself makes "not available" of every status from 400 on.
    exchange.handleHttpStatusCode = (status) => {
        if (status >= 300) {
            throw new HttpFailure(`status ${status}: ${answer.body}`);
        }
    };
    const response = {
        status: answer.status,
        statusText: '',
        headers: Object.fromEntries(answer.headers.map(({ name, value }) => [name, value])),
        text: async () => answer.body,
    };
    const value = await exchange.handleRestResponse(response, url, method, headers, body);
    // CCXT hands on what it cannot read, and many exchanges then find no candles in it.
    if (typeof value === 'string') {
        throw new NoJson(`no JSON: ${value}`);
    }
    return value;
}
