// Bundles `rule.js` with what it imports and turns it into a component. `tidegate build` runs it in the project's folder:
//
//     node sdk/build.mjs OUTPUT.wasm

import { writeFile } from 'node:fs/promises';
import { argv } from 'node:process';
import { fileURLToPath } from 'node:url';

import { componentize } from '@bytecodealliance/componentize-js';
import { build } from 'esbuild';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

const ENTRY = `
    import { component } from './sdk/component.js';
    import definition from './rule.js';
    export const rule = component(definition);
`;

const { outputFiles } = await build({
    stdin: { contents: ENTRY, resolveDir: here('..'), sourcefile: 'entry.js' },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'neutral',
    mainFields: ['module', 'main'],
    target: 'es2022',
    logLevel: 'warning',
});
const { component, imports } = await componentize(outputFiles[0].text, {
    witPath: here('rule.wit'),
    worldName: 'tidegate-rule',
    // A rule imports nothing.
    disableFeatures: ['clocks', 'fetch-event', 'http', 'random', 'stdio'],
});
if (imports.length > 0) {
    throw new Error(`the component imports ${imports.map((one) => one.join('.')).join(', ')}`);
}
await writeFile(argv[2], component);
