// Prints the `description` of the contract as JSON: every exchange of CCXT that gives candles to whoever asks. It is
// made before the component is, because 86 exchanges take longer to make than a call of `describe` may last.

import './src/prelude.js';

import { readFileSync } from 'node:fs';

import * as ccxt from 'ccxt';

import { adapter } from './src/adapter.js';
import { describe } from './src/describe.js';
import { memoOf } from './src/memo.js';

const { version } = JSON.parse(readFileSync(new URL('node_modules/ccxt/package.json', import.meta.url), 'utf8'));

/** A market that no exchange has said anything about. */
const MARKET = {
    id: 'BTCUSDT',
    symbol: 'BTC/USDT',
    base: 'BTC',
    quote: 'USDT',
    baseId: 'BTC',
    quoteId: 'USDT',
    type: 'spot',
    spot: true,
};

const SINCE_MS = Date.UTC(2026, 0, 1);

/** What an adapter of this one exchange does first with a memo. */
function firstStep(exports, exchange, memo) {
    const task = {
        exchange: exchange.id,
        symbol: MARKET.symbol,
        timeframe: exchange.timeframes[0],
        since: BigInt(SINCE_MS),
        until: BigInt(SINCE_MS + 60_000),
        now: BigInt(SINCE_MS + 86_400_000),
        memo,
    };
    return exports.next(task, []);
}

const exchanges = [];
for (const Exchange of Object.values(ccxt.exchanges)) {
    const made = new Exchange();
    if (made.has.fetchOHLCV !== true) {
        continue;
    }
    const exchange = describe(made);
    const exports = adapter({ [exchange.id]: Exchange }, { version, exchanges: [exchange] });
    const markets = await firstStep(exports, exchange, '');
    const candles = await firstStep(exports, exchange, memoOf(MARKET, version));
    if (markets.tag !== 'requests') {
        console.error(`${exchange.id} is left out: ${JSON.stringify(markets.val.val)}`);
        continue;
    }
    const requests = [markets, candles].flatMap((step) => (step.tag === 'requests' ? step.val : []));
    const strangers = requests.filter(({ url }) => !exchange.hosts.includes(new URL(url).host));
    if (strangers.length > 0) {
        const urls = strangers.map(({ url }) => url).join(', ');
        throw new Error(`${exchange.id} asks hosts that it does not name: ${urls}`);
    }
    exchanges.push(exchange);
}
process.stdout.write(
    JSON.stringify({
        name: 'ccxt',
        version,
        summary: `The public candles of ${exchanges.length} exchanges, as CCXT ${version} reads them`,
        exchanges,
    }),
);
