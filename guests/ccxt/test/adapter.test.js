import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inspect } from 'node:util';

import {
    adapterOf, answer, BINANCE, BYBIT, COINBASE_EXCHANGE, columns, columnsOf, KRAKEN, MINUTE_MS, play, SINCE_MS, task,
} from './support.js';

const EXCHANGES = [
    { id: 'binance', symbol: 'BTC/USDT', bodies: BINANCE, lists: ['/api/v3/exchangeInfo'] },
    { id: 'bybit', symbol: 'BTC/USDT', bodies: BYBIT, lists: ['/v5/market/instruments-info'] },
    { id: 'coinbaseexchange', symbol: 'BTC/USD', bodies: COINBASE_EXCHANGE, lists: ['/currencies', '/products'] },
    { id: 'kraken', symbol: 'BTC/USD', bodies: KRAKEN, lists: ['/0/public/Assets', '/0/public/AssetPairs'] },
];

const exports = adapterOf(...EXCHANGES.map(({ id }) => id));
const paths = ({ asked }) => asked.map(({ url }) => new URL(url).pathname);

for (const { id, symbol, bodies, lists } of EXCHANGES) {
    test(`${id} gives its closed candles, and its market lists are asked for once`, async () => {
        const first = await play(exports, task(id, symbol, 3), bodies);
        assert.equal(first.tag, 'candles', inspect(first.val));
        assert.deepEqual(columnsOf(first.val), columns(3));
        assert.deepEqual(first.val.unreadable, []);
        assert.equal(first.val.trades.length + first.val.quoteVolume.length + first.val.vwap.length, 0);
        assert.deepEqual(paths(first).slice(0, -1), lists);

        const { memo } = first.val;
        assert.ok(memo.length < 1024, memo);
        const second = await play(exports, task(id, symbol, 3, { memo }), bodies);
        assert.deepEqual(columnsOf(second.val), columns(3));
        assert.deepEqual(paths(second), paths(first).slice(-1));
        assert.deepEqual(second.asked, first.asked.slice(-1), 'the memo changes nothing of what is asked');
        assert.equal(second.val.memo, memo);
    });

    test(`${id} leaves out the candle that is still open`, async () => {
        const now = BigInt(SINCE_MS + 3 * MINUTE_MS - 1);
        const { val } = await play(exports, task(id, symbol, 3, { now }), bodies);
        assert.deepEqual(columnsOf(val), columns(2));
    });

    test(`${id} answers the same whatever the instance did before`, async () => {
        const fresh = adapterOf(id);
        const wanted = task(id, symbol, 2);
        const alone = await play(fresh, wanted, bodies);
        await play(exports, task(id, symbol, 3), bodies);
        await play(exports, task(id, 'NO/SUCH', 3), bodies);
        assert.deepEqual(await play(exports, wanted, bodies), alone);
    });

    test(`${id} does not know every symbol`, async () => {
        const { tag, val } = await play(exports, task(id, 'NO/SUCH', 3), bodies);
        assert.deepEqual([tag, val.tag], ['failed', 'bad-symbol']);
    });

    test(`${id} asks for what is wanted, within what is free at once`, async () => {
        const { asked } = await play(exports, task(id, symbol, 3), bodies);
        const { budget } = exports.describe().exchanges.find((exchange) => exchange.id === id);
        for (const { method, url, headers, cost } of asked) {
            assert.equal(method, 'GET');
            assert.ok(url.startsWith('https://'), url);
            assert.ok(cost >= 1 && cost <= budget.burst, `${url} costs ${cost} of ${budget.burst}`);
            assert.ok(headers.every(({ name }) => !/^(?:user-agent|accept-encoding)$/i.test(name)));
        }
    });
}

test('the limit is what is between since and until, and at most a page', async () => {
    const limits = [];
    for (const minutes of [1, 2, 5_000]) {
        const { asked } = await play(exports, task('binance', 'BTC/USDT', minutes), BINANCE);
        const { searchParams } = new URL(asked.at(-1).url);
        assert.equal(searchParams.get('startTime'), String(SINCE_MS));
        limits.push(Number(searchParams.get('limit')));
    }
    assert.deepEqual(limits, [1, 2, 1000]);
});

test('candles after until are left out', async () => {
    const { val } = await play(exports, task('kraken', 'BTC/USD', 2), KRAKEN);
    assert.deepEqual(columnsOf(val), columns(2));
});

test('a memo that is none of this version and symbol is not used', async () => {
    const { val } = await play(exports, task('binance', 'BTC/USDT', 3), BINANCE);
    const others = [val.memo.replace('0.0.0', '0.0.1'), val.memo.replace('BTC/', 'ETH/')];
    for (const memo of ['no JSON', '{}', 'null', ...others]) {
        const { tag, asked } = await play(exports, task('binance', 'BTC/USDT', 3, { memo }), BINANCE);
        assert.equal(tag, 'candles', memo);
        assert.equal(asked.length, 2, memo);
    }
});

test('a task for what was not described fails instead of trapping', async () => {
    for (const changes of [{ exchange: 'nowhere' }, { exchange: 'constructor' }, { timeframe: '7m' }]) {
        const { tag, val } = await exports.next({ ...task('binance', 'BTC/USDT', 3), ...changes }, []);
        assert.deepEqual([tag, val.tag], ['failed', 'unreadable'], JSON.stringify(val));
    }
});

test('an answer of another shape fails instead of trapping', async () => {
    const bodies = [{}, [], [1, 2], [[null]], { symbols: [null] }, { symbols: {} }, { symbols: [{}] }, 'null', '7', ''];
    for (const body of bodies) {
        const market = await exports.next(task('binance', 'BTC/USDT', 3), [answer(body)]);
        assert.equal(market.tag, 'failed', JSON.stringify(body));
        const list = answer(BINANCE['/api/v3/exchangeInfo']);
        const candles = await exports.next(task('binance', 'BTC/USDT', 3), [list, answer(body)]);
        assert.ok(['candles', 'failed'].includes(candles.tag), JSON.stringify(body));
        assert.equal(candles.val.timestamps?.length ?? 0, 0, JSON.stringify(body));
    }
});

test('there are no live feeds', () => {
    assert.throws(() => exports.subscribe('binance', '1m', ['BTC/USDT']), (error) => /no live feeds/.test(error));
    assert.throws(() => exports.hear(0n, '{}'), (error) => /no live feeds/.test(error));
});
