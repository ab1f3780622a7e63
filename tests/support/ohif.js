// Opens OHIF's list of studies and one study in Chromium: node ohif.js BASE NAME STUDY PICTURE
const { chromium } = require('playwright-core');

const [base, name, study, picture] = process.argv.slice(2);
const flags = ['--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'];

(async () => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: flags });
  const page = await browser.newPage({ viewport: { width: 1200, height: 800 } });
  const failed = [];
  page.on('response', response => {
    if (response.status() >= 400) failed.push(`${response.status()} ${response.url()}`);
  });
  await page.goto(`${base}/viewer/`);
  await page.waitForSelector(`text=${name}`, { timeout: 60000 });
  await page.goto(`${base}/viewer/viewer?StudyInstanceUIDs=${study}`);
  await page.waitForSelector('.cornerstone-canvas', { timeout: 60000 });
  await page.click('text=Skip all', { timeout: 20000 }).catch(() => {}); // its tour dims the page
  await page.click('text=Confirm and hide', { timeout: 5000 }).catch(() => {});
  const drawn = async () => {
    const shot = await page.locator('.cornerstone-canvas').first().screenshot({ path: picture });
    return shot.length;
  };
  for (let tries = 0; tries < 60 && (await drawn()) < 60000; tries++) {
    await page.waitForTimeout(500);
  }
  await browser.close();
  if (failed.length) {
    console.error(failed.join('\n'));
    process.exit(1);
  }
})().catch(error => {
  console.error(error);
  process.exit(1);
});
