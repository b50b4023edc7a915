// The exports of the contract (`rule.wit`) for a rule.

import { Instance, describe } from './tidegate.js';

/** What the component exports as `rule`. */
export function component(rule) {
    const instance = new Instance(rule);
    return {
        describe: () => describe(rule),
        configure: (settings) => told(() => instance.configure(settings), (error) => error.message),
        transform: (now, batch) => told(() => instance.transform(Number(now), batch), String),
        remember: (batch) => instance.remember(batch),
    };
}

/** A text that is thrown is the error of a `result`; anything else would be a trap, of which the host knows no more. */
function told(work, sentence) {
    try {
        return work();
    } catch (error) {
        throw error instanceof Error ? sentence(error) : String(error);
    }
}
