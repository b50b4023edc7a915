import assert from 'node:assert/strict';
import { test } from 'node:test';

import { columnsOf, MINUTE_MS, SINCE_MS } from './support.js';
import { candles } from '../src/candles.js';

const row = (minute, close = 1) => [SINCE_MS + minute * MINUTE_MS, 1, 2, 0.5, close, 10];

/** The columns of rows for a task of ten minutes that are over, unless it says otherwise. */
function read(rows, { minutes = 10, nowMs = SINCE_MS + 60 * MINUTE_MS } = {}) {
    return candles(rows, { sinceMs: SINCE_MS, untilMs: SINCE_MS + minutes * MINUTE_MS, nowMs, timeframeMs: MINUTE_MS });
}

const minutes = ({ timestamps }) => [...timestamps].map((ms) => (Number(ms) - SINCE_MS) / MINUTE_MS);

test('a candle is closed when its time is over', () => {
    assert.deepEqual(minutes(read([row(0), row(1)], { nowMs: SINCE_MS + 2 * MINUTE_MS })), [0, 1]);
    assert.deepEqual(minutes(read([row(0), row(1)], { nowMs: SINCE_MS + 2 * MINUTE_MS - 1 })), [0]);
});

test('a candle is closed when a later one is there, wanted or not', () => {
    const nowMs = SINCE_MS + MINUTE_MS / 2;
    assert.deepEqual(minutes(read([row(0)], { nowMs })), []);
    assert.deepEqual(minutes(read([row(0), row(1)], { nowMs })), [0]);
    assert.deepEqual(minutes(read([row(0), row(1)], { nowMs, minutes: 1 })), [0]);
});

test('candles are ascending and unique, and the last of two stays', () => {
    const read_ = read([row(3), row(1, 7), row(2), row(1, 8)]);
    assert.deepEqual(minutes(read_), [1, 2, 3]);
    assert.equal(read_.close[0], 8);
});

test('candles outside of what is wanted are left out', () => {
    assert.deepEqual(minutes(read([row(-1), row(0), row(9), row(10)])), [0, 9]);
});

test('no candles are no failure', () => {
    const { timestamps, unreadable } = read([]);
    assert.deepEqual([timestamps.length, unreadable.length], [0, 0]);
});

test('what is no candle is left out and said', () => {
    const odd = [row(0)[0] + 1, 1, 1, 1, 1, 1];
    const gap = [SINCE_MS, 1, 2, null, 1, 10];
    const quiet = [SINCE_MS, 1, 2, 1, 1, undefined];
    const { unreadable, ...read_ } = read([odd, gap, quiet, [NaN, 1, 1, 1, 1, 1], undefined, {}, row(5)]);
    assert.deepEqual(minutes(read_), [5]);
    assert.deepEqual(
        unreadable.map((sentence) => sentence.split(':')[0]),
        [
            'the time of a candle is no multiple of its timeframe',
            'a candle has no low',
            'a candle has no volume',
            'a candle has no time',
            'a candle has no time',
            'a candle has no time',
        ],
    );
});

test('all columns are of one length', () => {
    const lengths = Object.values(columnsOf(read([row(0), row(1), row(2)]))).map(({ length }) => length);
    assert.deepEqual(new Set(lengths), new Set([3]));
});
