// The rule `PROJECT_NAME`.

import { keep, reject, rule } from './sdk/tidegate.js';

export default rule({
    name: 'PROJECT_NAME',
    version: '0.1.0',
    summary: 'Rejects candles whose range is wider than a factor, and writes the range of the others',
    settings: {
        factor: { type: 'number', default: 2, description: 'How many times the low the high may be' },
    },
    // Labels of metrics, so the set is closed.
    reasons: ['too_wide'],
    reads: { high: 'float', low: 'float', symbol: 'text' },
    writes: { spread: 'float' },
    decide,
});

function decide({ high, low, symbol }, { factor }) {
    // A value can be null; this rule leaves it to others to reject such a row.
    if (high === null || low === null) {
        return keep();
    }
    if (high > low * factor) {
        const name = symbol ?? 'a row without symbol';
        return reject('too_wide', `${name}: high ${high} is too far above low ${low}`);
    }
    return keep({ spread: high - low });
}
