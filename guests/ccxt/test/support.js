// What the tests share: answers in the shapes that exchanges give, and something that plays the host.

import assert from 'node:assert/strict';

// Before CCXT, as in the component.
import '../src/prelude.js';

import * as ccxt from 'ccxt';

import { adapter } from '../src/adapter.js';
import { describe } from '../src/describe.js';

export const SINCE_MS = Date.UTC(2026, 0, 1);
export const MINUTE_MS = 60_000;

/** The exports of the contract for some of CCXT's exchanges. */
export function adapterOf(...ids) {
    const classes = Object.fromEntries(ids.map((id) => [id, ccxt.exchanges[id]]));
    const exchanges = Object.values(classes).map((Exchange) => describe(new Exchange()));
    return adapter(classes, { name: 'ccxt', version: '0.0.0', summary: '', exchanges });
}

/** A task for some minutes after `SINCE_MS`, all of them over. */
export function task(exchange, symbol, minutes, changes = {}) {
    return {
        exchange,
        symbol,
        timeframe: '1m',
        since: BigInt(SINCE_MS),
        until: BigInt(SINCE_MS + minutes * MINUTE_MS),
        now: BigInt(SINCE_MS + minutes * MINUTE_MS + 5_000),
        memo: '',
        ...changes,
    };
}

/** An answer of the contract; what is no text becomes JSON. */
export function answer(body, status = 200, headers = []) {
    return { status, headers, body: typeof body === 'string' ? body : JSON.stringify(body) };
}

/**
 * Steps through a task, with an answer for each path, and gives how it ends, what was asked, and in how many steps. An
 * answer is a body, or what `answer` makes.
 */
export async function play(exports, wanted, bodies) {
    const answers = [];
    const asked = [];
    for (let steps = 1; steps <= 8; steps += 1) {
        const step = await exports.next(wanted, answers);
        if (step.tag !== 'requests') {
            return { ...step, asked, steps };
        }
        for (const request of step.val) {
            const { host, pathname } = new URL(request.url);
            const { hosts } = exports.describe().exchanges.find(({ id }) => id === wanted.exchange);
            assert.ok(hosts.includes(host), `${host} is among ${hosts}`);
            assert.ok(pathname in bodies, `there is an answer for ${pathname}`);
            asked.push(request);
            const body = bodies[pathname];
            answers.push(body.status === undefined || body.headers === undefined ? answer(body) : body);
        }
    }
    assert.fail('the task does not end');
}

/** Candles as CCXT would have them: open, high, low, close and volume for each minute after `SINCE_MS`. */
export const ROWS = [
    [100, 110, 90, 105, 1.5],
    [105, 106, 104, 104.5, 2],
    [104.5, 104.5, 101.25, 102, 0.25],
];

/** The columns that come of the first `count` of `ROWS`. */
export function columns(count) {
    const rows = ROWS.slice(0, count);
    const column = (index) => rows.map((row) => row[index]);
    return {
        timestamps: rows.map((_, minute) => BigInt(SINCE_MS + minute * MINUTE_MS)),
        open: column(0),
        high: column(1),
        low: column(2),
        close: column(3),
        volume: column(4),
    };
}

/** The columns of an answer that `columns` speaks of, as plain lists. */
export function columnsOf({ timestamps, open, high, low, close, volume }) {
    return Object.fromEntries(
        Object.entries({ timestamps, open, high, low, close, volume }).map(([name, list]) => [name, [...list]]),
    );
}

const text = (number) => number.toFixed(8);

/** Binance: two markets, and candles of twelve values. */
export const BINANCE = {
    '/api/v3/exchangeInfo': {
        symbols: ['BTC', 'ETH'].map((base) => ({
            symbol: `${base}USDT`,
            status: 'TRADING',
            baseAsset: base,
            baseAssetPrecision: 8,
            quoteAsset: 'USDT',
            quotePrecision: 8,
            isSpotTradingAllowed: true,
            isMarginTradingAllowed: true,
            filters: [{ filterType: 'PRICE_FILTER', minPrice: '0.01', maxPrice: '1000000', tickSize: '0.01' }],
            permissions: ['SPOT'],
        })),
    },
    '/api/v3/klines': ROWS.map(([open, high, low, close, volume], minute) => {
        const openMs = SINCE_MS + minute * MINUTE_MS;
        const prices = [open, high, low, close].map(text);
        return [openMs, ...prices, text(volume), openMs + MINUTE_MS - 1, '150.5', 12, '0.5', '50.2', '0'];
    }),
};

/** Bybit: newest first, all as text. */
export const BYBIT = {
    '/v5/market/instruments-info': {
        retCode: 0,
        retMsg: 'OK',
        result: {
            category: 'spot',
            list: [
                {
                    symbol: 'BTCUSDT',
                    baseCoin: 'BTC',
                    quoteCoin: 'USDT',
                    status: 'Trading',
                    marginTrading: 'both',
                    lotSizeFilter: { basePrecision: '0.000001', quotePrecision: '0.0000001', minOrderQty: '0.00001' },
                    priceFilter: { tickSize: '0.01' },
                },
            ],
        },
        time: SINCE_MS,
    },
    '/v5/market/kline': {
        retCode: 0,
        retMsg: 'OK',
        result: {
            symbol: 'BTCUSDT',
            category: 'spot',
            list: ROWS.map((row, minute) => [SINCE_MS + minute * MINUTE_MS, ...row, 150.5].map(String)).reverse(),
        },
        time: SINCE_MS,
    },
};

/** Kraken: other names for the assets and for the market, seconds, and the open candle last. */
export const KRAKEN = {
    '/0/public/Assets': {
        error: [],
        result: {
            XXBT: { aclass: 'currency', altname: 'XBT', decimals: 10, display_decimals: 5, status: 'enabled' },
            ZUSD: { aclass: 'currency', altname: 'USD', decimals: 4, display_decimals: 2, status: 'enabled' },
        },
    },
    '/0/public/AssetPairs': {
        error: [],
        result: {
            XXBTZUSD: {
                altname: 'XBTUSD',
                wsname: 'XBT/USD',
                base: 'XXBT',
                quote: 'ZUSD',
                pair_decimals: 1,
                lot_decimals: 8,
                leverage_buy: [2, 3],
                leverage_sell: [2, 3],
                fees: [[0, 0.4]],
                fees_maker: [[0, 0.25]],
                ordermin: '0.00005',
                status: 'online',
            },
        },
    },
    '/0/public/OHLC': {
        error: [],
        result: {
            XXBTZUSD: ROWS.map(([open, high, low, close, volume], minute) => {
                const prices = [open, high, low, close].map((price) => price.toFixed(1 + (price % 1 > 0)));
                return [(SINCE_MS + minute * MINUTE_MS) / 1000, ...prices, '103.1', text(volume), 12];
            }),
            last: (SINCE_MS + MINUTE_MS) / 1000,
        },
    },
};

/** Coinbase Exchange: low before high before open, newest first, and a candle from before `since`. */
export const COINBASE_EXCHANGE = {
    '/currencies': ['BTC', 'USD'].map((id) => ({ id, name: id, min_size: '0.01', status: 'online', details: {} })),
    '/products': [
        {
            id: 'BTC-USD',
            base_currency: 'BTC',
            quote_currency: 'USD',
            quote_increment: '0.01',
            base_increment: '0.00000001',
            min_market_funds: '1',
            status: 'online',
        },
    ],
    '/products/BTC-USD/candles': [[99, 99, 99, 99, 1], ...ROWS]
        .map(([open, high, low, close, volume], minute) => {
            return [(SINCE_MS + (minute - 1) * MINUTE_MS) / 1000, low, high, open, close, volume];
        })
        .reverse(),
};
