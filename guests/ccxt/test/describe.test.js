import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const script = fileURLToPath(new URL('../describe.mjs', import.meta.url));
const description = JSON.parse(execFileSync(process.execPath, [script], { encoding: 'utf8', stdio: 'pipe' }));
const byId = new Map(description.exchanges.map((exchange) => [exchange.id, exchange]));

test('what is described keeps the limits of the contract', () => {
    assert.match(description.name, /^[a-z0-9_-]{1,64}$/);
    assert.ok(description.exchanges.length > 80 && description.exchanges.length <= 512);
    assert.equal(byId.size, description.exchanges.length);
    const timeframes = ['1m', '3m', '5m', '15m', '30m', '1h', '2h', '4h', '6h', '8h', '12h', '1d'];
    for (const exchange of description.exchanges) {
        assert.match(exchange.id, /^[a-z0-9_-]+$/);
        assert.ok(exchange.name.length > 0, exchange.id);
        assert.ok(exchange.hosts.length >= 1 && exchange.hosts.length <= 32, exchange.id);
        assert.ok(exchange.hosts.every((host) => /^[a-z0-9.-]+(?::\d+)?$/.test(host)), `${exchange.hosts}`);
        assert.ok(exchange.timeframes.length > 0, exchange.id);
        assert.ok(exchange.timeframes.every((timeframe) => timeframes.includes(timeframe)), exchange.id);
        assert.ok(exchange.pageLimit >= 100 && exchange.pageLimit <= 1000, `${exchange.id} ${exchange.pageLimit}`);
        const { units, windowMs, burst } = exchange.budget;
        assert.ok(units > 0 && windowMs > 0 && burst > 0 && burst <= units, exchange.id);
        assert.deepEqual([exchange.quiet, exchange.hasFeed], ['absent', false]);
    }
});

test('names of hosts are whole, and pages for people are not among them', () => {
    assert.deepEqual(byId.get('bybit').hosts, ['api.bybit.com']);
    assert.deepEqual(byId.get('kraken').hosts, ['api.kraken.com']);
    assert.deepEqual(byId.get('ndax').hosts, ['api.ndax.io:8443']);
});

test('what exchanges limit is known', () => {
    const facts = ['binance', 'coinbaseexchange', 'kraken'].map((id) => byId.get(id));
    assert.deepEqual(facts.map(({ pageLimit }) => pageLimit), [1000, 300, 720]);
    assert.deepEqual(facts.map(({ depth }) => depth), [undefined, undefined, 720]);
});

test('exchanges that want a key for their candles are not there', () => {
    assert.deepEqual(['alpaca', 'cex', 'mudrex'].filter((id) => byId.has(id)), []);
});
