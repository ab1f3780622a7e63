// Looks at the console in Chromium, and presses its buttons: node console.js BASE FOLDER
// Prints what it saw as JSON; FOLDER gets the pictures.
const { chromium } = require('playwright-core');

const [base, folder] = process.argv.slice(2);
const pages = { overview: '/console', studies: '/console/studies' };
const seen = { elsewhere: [], errors: [], overflow: [], faint: [], focus: [], refreshed: false };

// Return the texts of a page whose contrast is below WCAG 2.2's AA (1.4.3).
const faint = () => {
  const parts = colour => colour.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const part = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parts(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].filter(one => one.nodeType === 3).map(one => one.data.trim()).join('');
    if (!text || !element.checkVisibility() || element.closest('.hidden, .skip, meter')) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const [one, other] = [light(parts(style.color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < (size >= 24 || (bold && size >= 18.66) ? 3 : 4.5)) found.push(`${text}: ${ratio.toFixed(2)}`);
  }
  return found;
};

const watch = page => {
  page.on('request', request => {
    if (!request.url().startsWith(base)) seen.elsewhere.push(request.url());
  });
  page.on('console', message => {
    if (message.type() === 'error') seen.errors.push(message.text());
  });
  page.on('pageerror', error => seen.errors.push(String(error)));
};

// What has the focus, and whether that can be seen.
const focused = page => page.evaluate(() => {
  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  const name = one.innerText?.trim() || one.getAttribute('aria-label') || one.name || one.tagName;
  return { name, visible: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
    && box.width > 0 && box.bottom > 0 && box.top < innerHeight };
});

(async () => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
  for (const colorScheme of ['light', 'dark']) for (const width of [400, 1400]) {
    const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme });
    watch(page);
    for (const [name, path] of Object.entries(pages)) {
      await page.goto(base + path, { waitUntil: 'networkidle' });
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (over > 0) seen.overflow.push(`${name} ${width}: ${over}`);
      for (const text of await page.evaluate(faint)) seen.faint.push(`${name} ${colorScheme}: ${text}`);
      await page.screenshot({ path: `${folder}/${name}-${colorScheme}-${width}.png`, fullPage: true });
    }
    await page.close();
  }

  // By keyboard alone: through the page to the button of the one destination, and press it.
  const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
  watch(page);
  await page.goto(`${base}/console`, { waitUntil: 'networkidle' });
  for (let presses = 0; presses < 60; presses++) {
    await page.keyboard.press('Tab');
    const found = await focused(page);
    seen.focus.push(found);
    if (found.name === 'Echo') break;
  }
  await Promise.all([page.waitForURL('**/console#destinations'), page.keyboard.press('Enter')]);
  seen.echoed = await page.innerText('#destinations-list');

  // The parts that change are refreshed, unless that is held; none loses the focus.
  const updated = () => page.innerText('#updated');
  const before = await updated();
  await page.focus('#destinations-list button');
  await page.waitForFunction(text => document.getElementById('updated').innerText !== text, before);
  seen.refreshed = await page.evaluate(() => document.activeElement.innerText) === 'Echo';
  await page.click('#hold');
  const held = await updated();
  await page.waitForTimeout(6000);
  seen.held = await updated() === held;

  // Without JavaScript.
  const plain = await browser.newContext({ javaScriptEnabled: false });
  const still = await plain.newPage();
  watch(still);
  await still.goto(`${base}/console`);
  seen.plain = await still.innerText('main');
  await Promise.all([still.waitForURL('**/console#destinations'), still.click('text="Echo"')]);
  await browser.close();
  console.log(JSON.stringify(seen));
})().catch(error => {
  console.error(error);
  process.exit(1);
});
