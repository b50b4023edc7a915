// Settings: what a pipeline file may set, as JSON Schemas of the single settings.

import { shown } from './columns.js';

const TYPES = {
    boolean: (value) => typeof value === 'boolean',
    integer: Number.isInteger,
    number: (value) => typeof value === 'number',
    string: (value) => typeof value === 'string',
    array: Array.isArray,
    object: (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
};

/** The JSON Schema of all settings. */
export function schema(title, properties) {
    return {
        $schema: 'https://json-schema.org/draft/2020-12/schema',
        title,
        type: 'object',
        properties,
        required: Object.keys(properties).filter((name) => properties[name].default === undefined),
        additionalProperties: false,
    };
}

/** The settings that a pipeline file gives, with the defaults of the others. */
export function complete(properties, given) {
    const unknown = Object.keys(given).find((name) => !Object.hasOwn(properties, name));
    if (unknown !== undefined) {
        const known = Object.keys(properties).map((name) => `\`${name}\``);
        throw new Error(`there is no setting \`${unknown}\`, but ${known.join(', ') || 'none at all'}`);
    }
    return Object.fromEntries(
        Object.entries(properties).map(([name, property]) => {
            const value = Object.hasOwn(given, name) ? given[name] : structuredClone(property.default);
            if (value === undefined) {
                throw new Error(`the setting \`${name}\` is missing`);
            }
            const expected = fault(property, value);
            if (expected !== undefined) {
                throw new Error(`the setting \`${name}\` is ${shown(value)}, but it must be ${expected}`);
            }
            return [name, value];
        }),
    );
}

/** What a value must be that is not; undefined when it fits. Other words of JSON Schema are for people alone. */
function fault(property, value) {
    const { type, enum: choices, minimum, exclusiveMinimum, maximum, exclusiveMaximum } = property;
    if (type !== undefined && !TYPES[type](value)) {
        return `of type ${type}`;
    }
    if (choices !== undefined && !choices.includes(value)) {
        return `one of ${choices.map(shown).join(', ')}`;
    }
    const bounds = [
        [value >= minimum, minimum, 'at least'],
        [value > exclusiveMinimum, exclusiveMinimum, 'above'],
        [value <= maximum, maximum, 'at most'],
        [value < exclusiveMaximum, exclusiveMaximum, 'below'],
    ];
    const broken = bounds.find(([holds, bound]) => bound !== undefined && !holds);
    return broken === undefined ? undefined : `${broken[2]} ${broken[1]}`;
}

/** Throws when a setting is described in a way that this module would misunderstand. */
export function checkProperties(properties) {
    for (const [name, { type }] of Object.entries(properties)) {
        if (type !== undefined && !Object.hasOwn(TYPES, type)) {
            const known = Object.keys(TYPES).join(', ');
            throw new Error(`the setting \`${name}\` is of type ${shown(type)}, which is none of ${known}`);
        }
    }
}
