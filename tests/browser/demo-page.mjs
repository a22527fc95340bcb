/** demo-page.mjs: what tests do with the demo's page and read from it, and what a checker of accessibility would say about it. */

/** Sets how stories are told; without pacing unless asked for. */
export async function settle(page, { temperature = 0, length = 400, seed = '', pace = false } = {}) {
  await page.locator('#temperature').fill(String(temperature));
  await page.locator('#length').fill(String(length));
  await page.locator('#seed').fill(String(seed));
  await page.locator('#pace').setChecked(pace);
}

/** Tells a story to its end; resolves to all that is shown. */
export async function tell(page, prompt) {
  await page.locator('#prompt').fill(prompt);
  await page.locator('#tell').click();
  await page.locator('#tale[aria-busy="false"]').waitFor();
  await page.waitForFunction(() => document.querySelector('#tale-status').textContent !== '');
  return page.locator('#tale').textContent();
}

export const figure = (page, name) => page.locator(`#figure-${name}`).textContent();
export const errors = (page) => page.locator('.message-error');

/** Waits until a story has at least so many tokens. */
export async function untilTokens(page, least) {
  await page.waitForFunction((n) => Number(document.querySelector('#figure-tokens').textContent.replaceAll(',', '')) >= n, least);
}

/** The width that does not fit, in pixels. */
export function overflow(page) {
  return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
}

/** Runs in the page: what a checker of accessibility would say about what can be seen now. */
export function findFaults() {
  const faults = [];
  const visible = (one) => one.checkVisibility({ visibilityProperty: true });
  const say = (one, text) => faults.push(`${one.localName}${one.id ? `#${one.id}` : ''}: ${text}`);

  // Names and roles.
  const nameOf = (one) => {
    const labelledBy = one.getAttribute('aria-labelledby');
    if (labelledBy) return labelledBy.split(' ').map((id) => document.getElementById(id)?.textContent ?? '').join(' ').trim();
    return (one.getAttribute('aria-label') ?? [...(one.labels ?? [])].map((label) => label.textContent).join(' ')).trim() || (one.localName === 'button' ? one.textContent.trim() : '');
  };
  for (const one of document.querySelectorAll('button, input, select, textarea, [role=region], [role=progressbar], [role=log], section')) {
    if (visible(one) && !nameOf(one)) say(one, 'has no name');
  }
  for (const one of document.querySelectorAll('[aria-labelledby], [aria-describedby], label[for], output[for]')) {
    for (const attribute of ['aria-labelledby', 'aria-describedby', 'for']) {
      for (const id of one.getAttribute(attribute)?.split(' ') ?? []) if (!document.getElementById(id)) say(one, `${attribute} names #${id}, which is not there`);
    }
  }
  const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`#${id} is there twice`);
  for (const one of document.querySelectorAll('svg')) if (!one.closest('[aria-hidden=true]')) say(one, 'is a picture without a name');
  if (!document.documentElement.lang) faults.push('the page has no language');
  if (document.querySelectorAll('main').length !== 1) faults.push('one main, please');

  // Headings go down one step at a time.
  const levels = [...document.querySelectorAll('h1, h2, h3')].filter(visible).map((one) => Number(one.localName[1]));
  if (levels.filter((level) => level === 1).length !== 1) faults.push('one h1, please');
  levels.forEach((level, i) => i > 0 && level > levels[i - 1] + 1 && faults.push(`h${level} follows h${levels[i - 1]}`));

  // What scrolls can be reached by keyboard; what is pressed is large enough.
  for (const one of document.querySelectorAll('*')) {
    if (visible(one) && one.scrollHeight > one.clientHeight + 1 && ['auto', 'scroll'].includes(getComputedStyle(one).overflowY) && one.tabIndex < 0) say(one, 'scrolls without a place in the tab order');
  }
  for (const one of document.querySelectorAll('button, select, input:not([type=checkbox], [type=radio])')) {
    if (visible(one) && one.getBoundingClientRect().height < 24) say(one, `is ${one.getBoundingClientRect().height} pixels high`);
  }

  // Contrast of text on what lies behind it: 4.5, or 3 for large text.
  const rgb = (color) => {
    const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const luminance = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color.a === 1) return color;
    }
    return rgb('rgb(255, 255, 255)');
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const one = node.parentElement;
    if (!node.textContent.trim() || !visible(one) || ['OPTION', 'SCRIPT', 'NOSCRIPT'].includes(one.tagName)) continue;
    const style = getComputedStyle(one);
    const [light, dark] = [luminance(rgb(style.color)), luminance(behind(one))].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = Number.parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (isLarge ? 3 : 4.5)) say(one, `“${node.textContent.trim().slice(0, 30)}” has a contrast of ${ratio.toFixed(2)}`);
  }
  return faults;
}
