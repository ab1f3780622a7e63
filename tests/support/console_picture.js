// Takes a picture of the console's first screen: node console_picture.js BASE FILE SCHEME
const { chromium } = require('playwright-core');

const [base, path, colorScheme] = process.argv.slice(2);

(async () => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });
  const page = await browser.newPage({ viewport: { width: 1360, height: 1010 }, colorScheme });
  await page.goto(`${base}/console`, { waitUntil: 'networkidle' });
  await page.screenshot({ path });
  await browser.close();
  console.log('{}');
})().catch(error => {
  console.error(error);
  process.exit(1);
});
