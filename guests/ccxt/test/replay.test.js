import assert from 'node:assert/strict';
import { test } from 'node:test';

import { answer } from './support.js';
import { exchanges } from 'ccxt';
import { begin } from '../src/prelude.js';
import { replay, Stuck } from '../src/replay.js';

/** An exchange, and a function that makes it ask for a path and gives the answer's JSON. */
function exchangeThatAsks() {
    begin(0);
    const exchange = new exchanges.kraken();
    return [exchange, (path) => exchange.fetch(`https://api.kraken.com/${path}`)];
}

/** Steps through `work` as the host would, answers each request with its path, and gives how it ends and all paths. */
async function play(work) {
    const answers = [];
    const steps = [];
    for (;;) {
        const [exchange, ask] = exchangeThatAsks();
        const { requests, ...outcome } = await replay(exchange, () => work(ask, exchange), answers);
        if (requests === undefined) {
            return { ...outcome, steps };
        }
        const paths = requests.map(({ url }) => new URL(url).pathname.slice(1));
        steps.push(paths);
        answers.push(...paths.map((path) => answer({ path })));
        assert.ok(steps.length < 10, JSON.stringify(steps));
    }
}

const turns = async (count) => {
    for (let turn = 0; turn < count; turn += 1) {
        await null;
    }
};

test('requests that do not wait for each other are one step', async () => {
    const { value, steps } = await play((ask) => Promise.all(['a', 'b', 'c'].map(ask)));
    assert.deepEqual(steps, [['a', 'b', 'c']]);
    assert.deepEqual(value.map(({ path }) => path), ['a', 'b', 'c']);
});

test('each request gets its own answer, however long the others take to be made', async () => {
    const { value, steps } = await play(async (ask) => {
        const chain = async (name, delay) => {
            await turns(delay);
            const first = await ask(`${name}1`);
            const second = await ask(`${name}2`);
            return [first.path, second.path];
        };
        return Promise.all([chain('a', 0), chain('b', 30), chain('c', 90)]);
    });
    assert.deepEqual(steps, [['a1', 'b1', 'c1'], ['a2', 'b2', 'c2']]);
    assert.deepEqual(value, [['a1', 'a2'], ['b1', 'b2'], ['c1', 'c2']]);
});

test('a step has at most sixteen requests', async () => {
    const names = Array.from({ length: 20 }, (_, index) => `r${index}`);
    const { value, steps } = await play((ask) => Promise.all(names.map(ask)));
    assert.deepEqual(steps.map(({ length }) => length), [16, 4]);
    assert.deepEqual(value.map(({ path }) => path), names);
});

test('timers ring when nothing else goes on, in the order of their times', async () => {
    const { value, steps } = await play(async (ask, exchange) => {
        const rung = [];
        const first = exchange.sleep(20_000).then(() => rung.push('late'));
        const second = exchange.sleep(10).then(() => rung.push('early'));
        await ask('a');
        await Promise.all([first, second]);
        return [rung, Date.now()];
    });
    assert.deepEqual(steps, [['a']]);
    assert.deepEqual(value, [['early', 'late'], 20_000]);
});

test('what never ends is a failure', async () => {
    const forever = await play(() => new Promise(() => {}));
    assert.ok(forever.error instanceof Stuck);
    const asleep = await play(async (_, exchange) => {
        for (;;) {
            await exchange.sleep(1000);
        }
    });
    assert.ok(asleep.error instanceof Stuck);
});

test('what is thrown at once is a failure', async () => {
    const { error } = await play(() => {
        throw new RangeError('at once');
    });
    assert.ok(error instanceof RangeError);
});

test('answers that do not fit to the requests are a failure', async () => {
    const [exchange, ask] = exchangeThatAsks();
    const { error } = await replay(exchange, () => Promise.all(['a', 'b'].map(ask)), [answer({})]);
    assert.ok(error instanceof Stuck);
});

test('a failure names the answer that led to it', async () => {
    const [exchange, ask] = exchangeThatAsks();
    const answers = [answer({}), answer('', 503)];
    const outcome = await replay(exchange, () => Promise.all(['a', 'b'].map(ask)), answers);
    assert.equal(outcome.answer, answers[1]);
});

test('chance is the same each time', async () => {
    const chance = async () => (await play(async () => [Math.random(), Math.random()])).value;
    const [first, second] = [await chance(), await chance()];
    assert.deepEqual(first, second);
    assert.notEqual(first[0], first[1]);
});
