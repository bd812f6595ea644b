"""What an eye would see at once in a page, measured: what sticks out, what is too pale."""

from __future__ import annotations

from tests.unit.reports.html.chromium import Chromium

_OVERFLOW = """
const width = document.documentElement.clientWidth;
const found = document.documentElement.scrollWidth > width ? ['the page'] : [];
document.querySelectorAll('details').forEach((one) => { one.open = true; });
document.querySelectorAll('body *').forEach((one) => {
  if (one.closest('.scroll, .sr, .skip, svg, .text') && !one.matches('.scroll, .text')) return;
  if (one.getBoundingClientRect().right > width + 1) found.push(one.tagName + ' ' + one.className);
});
return found;
"""
_LOW_CONTRAST = """
const canvas = document.createElement('canvas');
const context = canvas.getContext('2d', {willReadFrequently: true});
const known = new Map();
const channels = (colour) => {
  if (!known.has(colour)) {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data;
    known.set(colour, [red, green, blue, alpha / 255]);
  }
  return known.get(colour);
};
const over = (a, b, share) => [0, 1, 2].map((at) => a[at] * share + b[at] * (1 - share));
const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const light = ([red, green, blue]) =>
  0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
const behind = (element) => {
  if (!element) return [255, 255, 255];
  const colour = channels(getComputedStyle(element).backgroundColor);
  return colour[3] === 1 ? colour : over(colour, behind(element.parentElement), colour[3]);
};
const poor = new Set();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const words = walker.currentNode.data.trim();
  if (!words || !element.checkVisibility()) continue;
  if (element.closest('script, .sr, option, desc, title, :disabled')) continue;
  const style = getComputedStyle(element);
  const ground = behind(element);
  let share = 1;
  for (let one = element; one; one = one.parentElement) share *= getComputedStyle(one).opacity;
  const ink = channels(element.closest('svg') ? style.fill : style.color);
  const lights = [light(over(ink, ground, share * ink[3])), light(ground)].sort((a, b) => b - a);
  const ratio = (lights[0] + 0.05) / (lights[1] + 0.05);
  if (ratio < 4.5) poor.add(`${element.className} ${words.slice(0, 20)} ${ratio.toFixed(2)}`);
}
return Array.from(poor);
"""


def overflow(browser: Chromium) -> list[str]:
    """Everything that sticks out to the right of the window, outside of what scrolls by itself."""
    found: list[str] = browser.script(_OVERFLOW)
    return found


def low_contrast(browser: Chromium) -> list[str]:
    """Texts whose contrast to what is behind them is below 4.5 (WCAG 2.2, criterion 1.4.3)."""
    found: list[str] = browser.script(_LOW_CONTRAST)
    return found
