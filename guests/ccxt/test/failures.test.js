import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inspect } from 'node:util';

import { adapterOf, answer, BINANCE, BYBIT, KRAKEN, SINCE_MS, task } from './support.js';
// After what sets the clock.
import { errors } from 'ccxt';
import { failure } from '../src/failures.js';

const exports = adapterOf('binance', 'bybit', 'kraken');

/** What comes of a last answer, after those that lead to it. */
async function failed(exchange, symbol, before, last) {
    const step = await exports.next(task(exchange, symbol, 3), [...before.map((body) => answer(body)), last]);
    assert.equal(step.tag, 'failed', inspect(step.val));
    return step.val;
}

const binance = (last) => failed('binance', 'BTC/USDT', [BINANCE['/api/v3/exchangeInfo']], last);
const bybit = (last) => failed('bybit', 'BTC/USDT', [BYBIT['/v5/market/instruments-info']], last);
const kraken = (last) =>
    failed('kraken', 'BTC/USD', [KRAKEN['/0/public/Assets'], KRAKEN['/0/public/AssetPairs']], last);

test('what exchanges say becomes what the contract has for it', async () => {
    const page = '<html><body>Just a moment...</body></html>';
    const cases = [
        ['bad-symbol', binance, answer({ code: -1121, msg: 'Invalid symbol.' }, 400)],
        ['bad-symbol', kraken, answer({ error: ['EQuery:Invalid asset pair'] })],
        ['throttled', binance, answer({ code: -1003, msg: 'Too many requests.' }, 429)],
        ['throttled', binance, answer('', 418)],
        ['throttled', bybit, answer({ retCode: 10006, retMsg: 'Too many visits!' })],
        ['throttled', kraken, answer({ error: ['EAPI:Rate limit exceeded'] })],
        ['refused', binance, answer({ code: 0, msg: 'Service unavailable from a restricted location' }, 451)],
        ['refused', binance, answer(page, 403)],
        ['refused', binance, answer(page, 401)],
        ['refused', kraken, answer({ error: ['EGeneral:Permission denied'] })],
        ['unavailable', binance, answer(page, 503)],
        ['unavailable', binance, answer('', 504)],
        ['unavailable', binance, answer(page, 408)],
        ['unavailable', kraken, answer({ error: ['EService:Unavailable'] })],
        ['unreadable', binance, answer(page)],
        ['unreadable', binance, answer('[[1767225600000,"100.0')],
        ['unreadable', binance, answer('')],
        ['unreadable', binance, answer(page, 404)],
        ['unreadable', binance, answer(page, 302)],
        ['unreadable', bybit, answer(page)],
        ['unreadable', kraken, answer(page)],
        ['unreadable', kraken, answer({ error: ['EGeneral:Something new'] })],
    ];
    for (const [tag, exchange, last] of cases) {
        const { tag: got, val } = await exchange(last);
        const detail = val.detail ?? val;
        assert.equal(got, tag, `${last.status} ${last.body}: ${detail}`);
        assert.ok(detail.length > 0 && detail.length <= 301 && !detail.includes('\n'), detail);
    }
});

test('the classes of CCXT become what the contract has for them', () => {
    const cases = {
        'bad-symbol': [errors.BadSymbol],
        throttled: [errors.RateLimitExceeded, errors.DDoSProtection],
        refused: [
            errors.AccountNotEnabled,
            errors.AccountSuspended,
            errors.AuthenticationError,
            errors.NotSupported,
            errors.PermissionDenied,
            errors.RestrictedLocation,
        ],
        unavailable: [
            errors.ExchangeNotAvailable,
            errors.NetworkError,
            errors.OnMaintenance,
            errors.OperationFailed,
            errors.RequestTimeout,
        ],
        unreadable: [
            errors.ArgumentsRequired,
            errors.BadRequest,
            errors.BadResponse,
            errors.ExchangeError,
            errors.InvalidNonce,
            errors.NullResponse,
            TypeError,
        ],
    };
    for (const [tag, classes] of Object.entries(cases)) {
        for (const Kind of classes) {
            assert.equal(failure(new Kind('why'), undefined, 0).tag, tag, Kind.name);
        }
    }
});

test('anything can be thrown', () => {
    for (const thrown of [undefined, null, 'text', 7, {}, Object.create(null)]) {
        assert.equal(failure(thrown, undefined, 0).tag, 'unreadable');
    }
});

test('the time until which nothing may be asked is taken from header or body', () => {
    const until = (headers, body) => {
        const given = answer(body, 429, headers);
        return failure(new errors.RateLimitExceeded('slow down'), given, SINCE_MS).val.until;
    };
    const header = (value) => [{ name: 'retry-after', value }];
    assert.equal(until([], ''), undefined);
    assert.equal(until(header('30'), ''), BigInt(SINCE_MS + 30_000));
    assert.equal(until(header('Thu, 01 Jan 2026 00:01:00 GMT'), ''), BigInt(SINCE_MS + 60_000));
    assert.equal(until(header('soon'), ''), undefined);
    assert.equal(until(header('9'.repeat(30)), ''), undefined);
    assert.equal(until([], 'IP banned until 1767225700000.'), 1767225700000n);
});
