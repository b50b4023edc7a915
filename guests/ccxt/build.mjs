// Bundles CCXT with the adapter and turns it into a component. `cargo xtask guests --with ccxt` lays this folder, the
// packages of package-lock.json and `wit/exchange.wit` into one place and runs it there:
//
//     node build.mjs OUTPUT.wasm

import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { argv, execPath } from 'node:process';
import { fileURLToPath } from 'node:url';

import { componentize } from '@bytecodealliance/componentize-js';
import { build } from 'esbuild';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** What only signing, feeds and proxies need, and what asks for more than a component has. */
const UNREACHABLE = [
    /^node:/,
    /^(?:crypto|undici)$/,
    /\/ws\/WsClient\.js$/,
    /\/zklink-sdk-web\.js$/,
    /\/dydx-v4-client\//,
    /\/protobuf\/mexc\//,
    /\/functions\/starknet\.js$/,
    /^@scure\/starknet$/,
];

/** Stands for a whole module of any shape: it can be imported, and taken apart, but nothing in it can be called. */
const ABSENT_MODULE = `
const fail = () => { throw new Error('this part of CCXT is not in the component'); };
const absent = new Proxy(function () {}, {
    get: (_, name) => (name === '__esModule' ? true : typeof name === 'symbol' || name === 'then' ? undefined : absent),
    apply: fail,
    construct: fail,
});
module.exports = absent;
`;

const absentModules = {
    name: 'absent modules',
    setup: (builder) => {
        builder.onResolve({ filter: /.*/ }, ({ path }) =>
            UNREACHABLE.some((pattern) => pattern.test(path)) ? { path, namespace: 'absent' } : undefined,
        );
        builder.onLoad({ filter: /.*/, namespace: 'absent' }, () => ({ contents: ABSENT_MODULE, loader: 'js' }));
    },
};

/** CCXT's own entry brings feeds, predictions and a router of orders too: half as much again, and none of it used. */
const onlyExchanges = (ids) => ({
    name: 'only exchanges',
    setup: (builder) => {
        builder.onResolve({ filter: /^ccxt$/ }, ({ path }) => ({ path, namespace: 'ccxt' }));
        builder.onLoad({ filter: /.*/, namespace: 'ccxt' }, () => ({
            contents: [
                "export * as errors from './base/errors.js';",
                ...ids.map((id) => `export { default as ${id} } from './${id}.js';`),
            ].join('\n'),
            resolveDir: here('node_modules/ccxt/js/src'),
        }));
    },
});

function entry(ids, description) {
    return `
        import './src/prelude.js';
        import { ${ids.join(', ')} } from 'ccxt';
        import { adapter } from './src/adapter.js';
        export const exchange = adapter({ ${ids.join(', ')} }, ${JSON.stringify(description)});
    `;
}

async function bundle(description) {
    const ids = description.exchanges.map(({ id }) => id);
    const { outputFiles } = await build({
        stdin: { contents: entry(ids, description), resolveDir: here('.'), sourcefile: 'entry.js' },
        bundle: true,
        write: false,
        format: 'esm',
        platform: 'neutral',
        mainFields: ['module', 'main'],
        conditions: ['import', 'default'],
        target: 'es2022',
        minifySyntax: true,
        minifyWhitespace: true,
        legalComments: 'none',
        // CCXT asks for these to learn whether it runs in a browser, in Node or in Deno.
        define: { window: 'globalThis', process: 'undefined', Deno: 'undefined' },
        plugins: [onlyExchanges(ids), absentModules],
        logLevel: 'warning',
    });
    return outputFiles[0].text;
}

const [output] = argv.slice(2);
// A process of its own, because the adapter's clock stands still and the bundler needs one that runs.
const description = JSON.parse(execFileSync(execPath, [here('describe.mjs')], { encoding: 'utf8' }));
const source = await bundle(description);
const { component, imports } = await componentize(source, {
    witPath: here('wit'),
    worldName: 'tidegate-exchange',
    disableFeatures: ['clocks', 'fetch-event', 'http', 'random', 'stdio'],
});
if (imports.length > 0) {
    throw new Error(`the component imports ${imports.map((one) => one.join('.')).join(', ')}`);
}
await writeFile(output, component);
console.log(`${description.exchanges.length} exchanges of CCXT ${description.version}`);
