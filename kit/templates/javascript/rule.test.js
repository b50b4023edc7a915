import { test } from 'node:test';

import rule from './rule.js';
import { fixtures } from './sdk/fixtures.js';

for (const { name, check } of fixtures(rule, 'fixtures')) {
    test(name, check);
}
