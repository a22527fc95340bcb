/**
 * validate.ts: looks for numbers that no working model has: NaN, infinite, or nothing but zeros.
 */
import type { Model, ModelDescription, TensorValue, ValidateOptions, ValidationProblem } from './types.js';

function problemOf(values: TensorValue['data']): ValidationProblem['problem'] | undefined {
  let isZero = true;
  let isFinite = true;
  for (const value of values) {
    if (value !== value) return 'nan';
    if (value === Infinity || value === -Infinity) isFinite = false;
    if (value !== 0) isZero = false;
  }
  if (!isFinite) return 'infinite';
  return isZero ? 'zero' : undefined;
}

/** The input that is tried: what the caller says, else the model's own, one row of it where rows are positions. */
function inputShape({ inputShape: own, maxContext }: ModelDescription, given: readonly number[] | undefined): readonly number[] | undefined {
  if (given !== undefined) return given;
  if (own.length === 0) return undefined;
  return maxContext > 0 ? [1, ...own.slice(1)] : own;
}

/** `Model.validate` for any model; weights are read one at a time. */
export async function validateModel(model: Model, options: ValidateOptions): Promise<ValidationProblem[]> {
  const description = await model.describe();
  const shape = inputShape(description, options.shape);
  // Without a shape this says that it has to be given.
  const session = await model.createSession({ mode: 'trace', ...(shape && { input: { shape } }) });
  try {
    const found: ValidationProblem[] = [];
    for (const { name } of model.weights) {
      const problem = problemOf(await model.readWeight(name));
      if (problem) found.push({ name, kind: 'weight', problem });
    }
    const output = problemOf(await session.forward(new Float32Array(shape ? shape.reduce((n, size) => n * size, 1) : 0)));
    const names = await session.valueNames();
    for (const name of names) {
      const problem = problemOf((await session.value(name)).data);
      // Zeros inside are no news when zeros come in; at the end they are.
      if (problem && problem !== 'zero') found.push({ name, kind: 'output', problem });
    }
    const last = description.layers.at(-1)?.name;
    if (output === 'zero') found.push({ name: last !== undefined && names.includes(last) ? last : 'output', kind: 'output', problem: 'zero' });
    return found;
  } finally {
    await session.free();
  }
}
