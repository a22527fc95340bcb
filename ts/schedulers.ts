/**
 * schedulers.ts: learning rates by step, under Loom's names. Plain functions of the step: they need no runtime, hold no state and have nothing to
 * free. A training loop asks `getLR(step)` and gives the rate to `step` or `trainStep`.
 */
import { checkCount, checkFinite, checkPositive, shown } from './arguments.js';
import { HeddleError } from './errors.js';

/** The rate at each step. */
export interface Scheduler {
  /** The rate at a step, counted from 0. */
  getLR(step: number): number;
  /** Loom's name of the kind. */
  name(): string;
}

function scheduler(name: string, rate: (step: number) => number): Scheduler {
  return {
    getLR(step) {
      checkCount(step, 'step');
      return rate(step);
    },
    name: () => name,
  };
}

function checkRates(rates: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(rates)) checkFinite(value, name);
}

/** Half a cosine from `start` at share 0 to `min` at share 1. */
const cosine = (start: number, min: number, share: number): number => min + ((start - min) * (1 + Math.cos(Math.PI * share))) / 2;

/** Always `lr`. */
export function createConstantScheduler(lr: number): Scheduler {
  checkRates({ lr });
  return scheduler('Constant', () => lr);
}

/** A line from `start` to `end` over `steps` steps, `end` from then on. */
export function createLinearDecayScheduler(start: number, end: number, steps: number): Scheduler {
  checkRates({ start, end });
  checkPositive(steps, 'steps');
  return scheduler('LinearDecay', (step) => (step >= steps ? end : start + ((end - start) * step) / steps));
}

/** Half a cosine from `start` to `min` over `steps` steps, `min` from then on. */
export function createCosineScheduler(start: number, min: number, steps: number): Scheduler {
  checkRates({ start, min });
  checkPositive(steps, 'steps');
  return scheduler('CosineAnnealing', (step) => (step >= steps ? min : cosine(start, min, step / steps)));
}

/** The same, begun anew every `period` steps. */
export function createCosineRestartsScheduler(start: number, min: number, period: number): Scheduler {
  checkRates({ start, min });
  checkPositive(period, 'period');
  return scheduler('CosineAnnealingWarmRestarts', (step) => cosine(start, min, (step % period) / period));
}

/** `start`, times `rate` every `steps` steps, smoothly. */
export function createExponentialDecayScheduler(start: number, rate: number, steps: number): Scheduler {
  checkRates({ start, rate });
  checkPositive(steps, 'steps');
  return scheduler('ExponentialDecay', (step) => start * rate ** (step / steps));
}

/** `start`, times `factor` at every `size`-th step. */
export function createStepDecayScheduler(start: number, factor: number, size: number): Scheduler {
  checkRates({ start, factor });
  checkPositive(size, 'size');
  return scheduler('StepDecay', (step) => start * factor ** Math.floor(step / size));
}

/** From `start` to `end` over `steps` steps as (1 − share)^power, `end` from then on. */
export function createPolynomialDecayScheduler(start: number, end: number, steps: number, power: number): Scheduler {
  checkRates({ start, end, power });
  checkPositive(steps, 'steps');
  return scheduler('PolynomialDecay', (step) => (step >= steps ? end : (start - end) * (1 - step / steps) ** power + end));
}

/** A line from `warmup` to `base` over `steps` steps; then `after`, from its own step 0, or `base` without one. */
export function createWarmupScheduler(warmup: number, base: number, steps: number, after?: Scheduler): Scheduler {
  checkRates({ warmup, base });
  checkCount(steps, 'steps');
  if (after !== undefined && (typeof after?.getLR !== 'function' || typeof after.name !== 'function')) {
    throw new HeddleError('bad_argument', `after: expected a scheduler, found ${shown(after)}`);
  }
  return scheduler(after ? `Warmup+${after.name()}` : 'Warmup', (step) => {
    if (step < steps) return warmup + ((base - warmup) * step) / steps;
    return after ? after.getLR(step - steps) : base;
  });
}
