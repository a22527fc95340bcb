/** Learning rates by step are Loom's, scheduler by scheduler (tests/golden/loom, kind scheduler). */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { entry, golden, heddle, heddleError, readJson } from './heddle.mjs';

const [{ files, tolerance }] = readJson(golden('loom/cases.json')).filter(({ kind }) => kind === 'scheduler');

const make = {
  constant: ({ lr }) => heddle.createConstantScheduler(lr),
  linear: ({ initial, final, total }) => heddle.createLinearDecayScheduler(initial, final, total),
  cosine: ({ initial, min, total }) => heddle.createCosineScheduler(initial, min, total),
  cosine_restarts: ({ initial, min, period }) => heddle.createCosineRestartsScheduler(initial, min, period),
  exponential: ({ initial, rate, steps }) => heddle.createExponentialDecayScheduler(initial, rate, steps),
  step: ({ initial, factor, size }) => heddle.createStepDecayScheduler(initial, factor, size),
  polynomial: ({ initial, final, total, power }) => heddle.createPolynomialDecayScheduler(initial, final, total, power),
  warmup: ({ warmup, base, steps, after }) => heddle.createWarmupScheduler(warmup, base, steps, after && make[after.kind](after)),
};

const { schedulers } = readJson(golden(`loom/${files[0]}`));

for (const { kind, args, name, values } of schedulers) {
  test(`the scheduler ${name} has Loom's name and Loom's rate at every step`, () => {
    const scheduler = make[kind](args);
    assert.equal(scheduler.name(), name);
    for (const [step, want] of values.entries()) {
      const got = scheduler.getLR(step);
      assert.ok(Math.abs(got - want) <= tolerance.abs * Math.abs(want) + Number.EPSILON, `step ${step}: expected ${want}, found ${got}`);
    }
  });
}

test('all eight kinds of scheduler have a golden, and heddle/worker has them too', async () => {
  assert.deepEqual(new Set(schedulers.map(({ kind }) => kind)), new Set(Object.keys(make)));
  const worker = await entry('./worker');
  const names = Object.keys(heddle).filter((name) => name.endsWith('Scheduler'));
  assert.equal(names.length, 8);
  for (const name of names) assert.equal(typeof worker[name], 'function', name);
});

test('a warm-up of no steps is what comes after it', () => {
  const scheduler = heddle.createWarmupScheduler(0, 1, 0, heddle.createStepDecayScheduler(0.5, 0.1, 2));
  assert.equal(scheduler.name(), 'Warmup+StepDecay');
  assert.equal(scheduler.getLR(0), 0.5);
});

test('schedulers refuse what is no rate, no count and no step', () => {
  assert.throws(() => heddle.createConstantScheduler('0.1'), heddleError('bad_argument', /^lr: expected a finite number, found '0\.1'/));
  assert.throws(() => heddle.createLinearDecayScheduler(1, NaN, 3), heddleError('bad_argument', /^end: expected a finite number, found NaN/));
  assert.throws(() => heddle.createCosineScheduler(1, 0, 0), heddleError('bad_argument', /^steps: expected a whole number from 1/));
  assert.throws(() => heddle.createCosineRestartsScheduler(1, 0, 2.5), heddleError('bad_argument', /^period: /));
  assert.throws(() => heddle.createStepDecayScheduler(1, 0.5, -1), heddleError('bad_argument', /^size: /));
  assert.throws(() => heddle.createWarmupScheduler(0, 1, 2, 'cosine'), heddleError('bad_argument', /^after: expected a scheduler, found 'cosine'/));
  assert.throws(() => heddle.createWarmupScheduler(0, 1, 2, null), heddleError('bad_argument', /^after: expected a scheduler, found null/));
  assert.throws(() => heddle.createConstantScheduler(0.1).getLR(-1), heddleError('bad_argument', /^step: expected a whole number from 0/));
});
