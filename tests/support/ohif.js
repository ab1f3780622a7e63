// Drives OHIF in Chromium:
//   node ohif.js show BASE NAME STUDY PICTURE    lists studies, opens one, takes a picture of it
//   node ohif.js scroll BASE STUDY COUNT FOLDER  opens a study and scrolls; a picture of each image
//   node ohif.js upload BASE FILE NAME           uploads a file; its patient is in the list then
const { chromium } = require('playwright-core');

const [what, base, ...rest] = process.argv.slice(2);
const flags = ['--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'];
const canvas = '.cornerstone-canvas';

async function list(page, name) {
  await page.goto(`${base}/viewer/`);
  await page.waitForSelector(`text=${name}`, { timeout: 60000 });
}

async function open(page, study) {
  await page.goto(`${base}/viewer/viewer?StudyInstanceUIDs=${study}`);
  await page.waitForSelector(canvas, { timeout: 60000 });
  await page.click('text=Skip all', { timeout: 20000 }).catch(() => {}); // its tour dims the page
  await page.click('text=Confirm and hide', { timeout: 5000 }).catch(() => {});
}

// Takes pictures until one is what it should be, or for half a minute.
async function picture(page, path, isReady) {
  for (let tries = 0; tries < 60; tries++) {
    const shot = await page.locator(canvas).first().screenshot({ path });
    if (isReady(shot)) return shot;
    await page.waitForTimeout(500);
  }
  throw new Error(`the viewport does not show what it should: ${path}`);
}

const isDrawn = shot => shot.length > 60000;

const works = {
  async show(page, name, study, path) {
    await list(page, name);
    await open(page, study);
    await picture(page, path, isDrawn);
  },
  async scroll(page, study, count, folder) {
    await open(page, study);
    let shot = await picture(page, `${folder}/0.png`, isDrawn);
    const box = await page.locator(canvas).first().boundingBox();
    await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
    for (let number = 1; number < count; number++) {
      const before = shot;
      await page.mouse.wheel(0, 100);
      await page.waitForTimeout(1000); // what is drawn over the image has settled
      shot = await picture(page, `${folder}/${number}.png`, one => isDrawn(one) && !one.equals(before));
    }
  },
  async upload(page, file, name) {
    await page.goto(`${base}/viewer/`);
    await page.click('text=Upload', { timeout: 60000 });
    await page.locator('input[type=file]').first().setInputFiles(file);
    await page.waitForSelector('text=Completed!', { timeout: 60000 });
    await list(page, name);
  },
};

(async () => {
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: flags });
  const page = await browser.newPage({ viewport: { width: 1200, height: 800 } });
  const failed = [];
  page.on('response', response => {
    if (response.status() >= 400) failed.push(`${response.status()} ${response.url()}`);
  });
  await works[what](page, ...rest);
  await browser.close();
  if (failed.length) {
    console.error(failed.join('\n'));
    process.exit(1);
  }
})().catch(error => {
  console.error(error);
  process.exit(1);
});
