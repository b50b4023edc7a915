// What the contract wants to know of an exchange, out of what CCXT says of it.

import { budget } from './budget.js';
import { TIMEFRAMES_MS } from './candles.js';

/** What an exchange gives at once where CCXT does not say: less than any is known to give. */
const UNKNOWN_PAGE_LIMIT = 100;
const MOST_PAGE_LIMIT = 1000;
/** The contract's limit. */
const MOST_HOSTS = 32;

/** How many candles back an exchange gives, where it says that this is all. */
const DEPTHS = { kraken: 720 };

/** Names of addresses that candles never come from: accounts, pages for people. */
const OTHER_ADDRESSES = /private|web|zendesk|broker/i;

/** An `exchange-description` of the contract. */
export function describe(exchange) {
    return {
        id: exchange.id,
        name: String(exchange.name),
        hosts: hostsOf(exchange),
        timeframes: Object.keys(TIMEFRAMES_MS).filter((timeframe) => knows(exchange, timeframe)),
        pageLimit: pageLimit(exchange),
        depth: DEPTHS[exchange.id],
        budget: budget(exchange),
        quiet: 'absent',
        hasFeed: false,
    };
}

function knows(exchange, timeframe) {
    const own = exchange.timeframes?.[timeframe];
    return own !== undefined && own !== null;
}

function pageLimit(exchange) {
    const features = exchange.features ?? {};
    const ofKind = features.spot ?? features.swap?.linear ?? features.swap?.inverse ?? features.default;
    const limit = ofKind?.fetchOHLCV?.limit;
    return Number.isSafeInteger(limit) && limit > 0 ? Math.min(limit, MOST_PAGE_LIMIT) : UNKNOWN_PAGE_LIMIT;
}

/** The hosts of `urls.api`, a tree of any shape whose leaves are addresses. */
function hostsOf(exchange) {
    const urls = leaves(exchange.urls?.api).map((url) => exchange.implodeParams(url, { hostname: exchange.hostname }));
    const hosts = urls.filter((url) => url.startsWith('https://')).map((url) => new URL(url).host);
    return [...new Set(hosts)].slice(0, MOST_HOSTS);
}

function leaves(tree) {
    if (typeof tree === 'string') {
        return [tree];
    }
    const branches = Object.entries(tree ?? {}).filter(([name]) => !OTHER_ADDRESSES.test(name));
    return branches.flatMap(([, branch]) => leaves(branch));
}
