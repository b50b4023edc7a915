// The exports of the contract, for a set of CCXT's exchanges.

import { candles, TIMEFRAMES_MS } from './candles.js';
import { failure } from './failures.js';
import { marketOf, memoOf } from './memo.js';
import { begin } from './prelude.js';
import { replay } from './replay.js';
import { shelf } from './shelf.js';

/** Thrown from a function that gives a `result` of the contract, this is its error. */
const NO_FEEDS = 'ccxt has no live feeds here';

/**
 * The exports of the interface `exchange`.
 *
 * `classes` are CCXT's, by id; `description` is a `description` of the contract.
 */
export function adapter(classes, description) {
    const take = shelf(classes);
    const pageLimits = new Map(description.exchanges.map(({ id, pageLimit }) => [id, pageLimit]));
    return {
        describe: () => description,
        next: async (task, answers) => {
            const nowMs = Number(task.now);
            begin(nowMs);
            // Whatever is thrown out of here would be a trap, and the host could not say why.
            try {
                const exchange = take(task.exchange);
                const pageLimit = pageLimits.get(task.exchange);
                return await step({ exchange, pageLimit, version: description.version, task, answers });
            } catch (error) {
                return failed(error, undefined, nowMs);
            }
        },
        subscribe: () => {
            throw NO_FEEDS;
        },
        hear: () => {
            throw NO_FEEDS;
        },
    };
}

async function step({ exchange, pageLimit, version, task, answers }) {
    const [sinceMs, untilMs, nowMs] = [task.since, task.until, task.now].map(Number);
    const timeframeMs = TIMEFRAMES_MS[task.timeframe];
    if (exchange === undefined || timeframeMs === undefined) {
        throw new Error(`\`${task.exchange}\` with candles of \`${task.timeframe}\` is not among what was described`);
    }
    const market = marketOf(task.memo, version, task.symbol);
    if (market === undefined) {
        narrow(exchange, task.symbol);
    } else {
        exchange.setMarkets([market]);
    }
    const limit = Math.min(pageLimit, Math.max(1, Math.ceil((untilMs - sinceMs) / timeframeMs)));
    const work = () => exchange.fetchOHLCV(task.symbol, task.timeframe, sinceMs, limit);
    const { requests, error, answer, value: rows } = await replay(exchange, work, answers);
    if (requests !== undefined) {
        return { tag: 'requests', val: requests };
    }
    if (error !== undefined) {
        return failed(error, answer, nowMs);
    }
    const columns = candles(rows, { sinceMs, untilMs, nowMs, timeframeMs });
    return { tag: 'candles', val: { ...columns, memo: memoOf(exchange.market(task.symbol), version) } };
}

function failed(error, answer, nowMs) {
    return { tag: 'failed', val: failure(error, answer, nowMs) };
}

/** Makes an exchange ask for no more than it needs to learn the market of a symbol, and keep no other. */
function narrow(exchange, symbol) {
    noPages(exchange.options);
    // The contract's symbols are of the spot market; CCXT's others have a `:`.
    if (!symbol.includes(':')) {
        spotOnly(exchange.options.fetchMarkets?.types);
    }
    // Indexing thousands of markets takes as long as reading them.
    const setMarkets = exchange.setMarkets.bind(exchange);
    exchange.setMarkets = (markets, currencies) => {
        const wanted = exchange.toArray(markets).filter((market) => market.symbol === symbol);
        return setMarkets(wanted, currencies);
    };
}

/** Keeps CCXT from reading pages for people, which it tries up to ten times each and can do without. */
function noPages(options) {
    for (const option of Object.values(options)) {
        if (option?.webApiEnable === true) {
            option.webApiEnable = false;
        }
    }
}

/** Leaves only `spot` of the kinds of markets that an exchange asks for, where it is one of them. */
function spotOnly(kinds) {
    if (Array.isArray(kinds) && kinds.includes('spot')) {
        kinds.splice(0, kinds.length, 'spot');
    } else if (kinds?.spot === true) {
        Object.keys(kinds).forEach((kind) => {
            kinds[kind] = kind === 'spot';
        });
    }
}
