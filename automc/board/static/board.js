// What a page does beyond links and forms: it keeps itself up to date, sorts and filters tables, and copies ids.
"use strict";
const trouble = document.getElementById("trouble");
const orders = new Map(); // table id -> [column, ascending]: outlives the table, which a live page replaces

const key = cell => {
  const text = (cell?.innerText ?? "").trim(), number = Number.parseFloat(text.replaceAll(",", ""));
  return /^[-+−]?[\d.,]/.test(text) && !Number.isNaN(number) ? number : text.toLowerCase();
};
function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what is empty comes last, whichever way
  return typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
}
function order(table, column, ascending) {
  const rows = [...table.tBodies[0].rows].map(row => [key(row.cells[column]), row]);
  rows.sort((a, b) => a[0] === "" || b[0] === "" ? compare(a[0], b[0]) : (ascending ? 1 : -1) * compare(a[0], b[0]));
  table.tBodies[0].append(...rows.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((th, i) => i === column ? th.setAttribute("aria-sort", ascending ? "ascending" : "descending") : th.removeAttribute("aria-sort"));
}
function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((th, column) => {
    const button = document.createElement("button");
    button.type = "button"; button.append(...th.childNodes); th.append(button);
    button.onclick = () => {
      const ascending = th.getAttribute("aria-sort") !== "ascending";
      orders.set(table.id, [column, ascending]); order(table, column, ascending);
    };
  });
  if (orders.has(table.id)) order(table, ...orders.get(table.id));
}
function filter(form) {
  const status = form.elements.status.value, text = form.elements.text.value.toLowerCase();
  for (const row of document.getElementById(form.dataset.filter)?.tBodies[0].rows ?? [])
    row.hidden = (status !== "" && row.dataset.status !== status) || !row.innerText.toLowerCase().includes(text);
}
function prepare(root) {
  root.querySelectorAll("table[data-sort]").forEach(sortable);
  document.querySelectorAll("form[data-filter]").forEach(filter);
}

// Puts new content into a part of the page; what is open, focused or scrolled there stays so.
function place(part, html) {
  const open = [...part.querySelectorAll("details")].map(one => one.open);
  const scrolls = [...part.querySelectorAll(".scroll")].map(one => one.scrollLeft);
  const focusable = "a, button, summary, [tabindex]";
  const focused = [...part.querySelectorAll(focusable)].indexOf(document.activeElement);
  part.innerHTML = html;
  part.querySelectorAll("details").forEach((one, i) => { one.open = open[i] ?? one.open; });
  prepare(part);
  part.querySelectorAll(".scroll").forEach((one, i) => { one.scrollLeft = scrolls[i] ?? 0; });
  if (focused >= 0) part.querySelectorAll(focusable)[focused]?.focus({preventScroll: true});
}
function complain(text) { trouble.textContent = text; trouble.hidden = text === ""; }
async function look(area) {
  const address = `${area.dataset.live}?seen=${encodeURIComponent(area.dataset.seen)}`;
  try {
    const answer = await fetch(address, {headers: {accept: "application/json"}});
    const told = answer.status === 204 ? {} : await answer.json();
    complain(told.trouble ?? "");
    if (told.parts) {
      for (const [name, html] of Object.entries(told.parts)) place(area.querySelector(`[data-part="${name}"]`), html);
      area.dataset.seen = told.seen;
    }
  } catch { complain("The board does not answer: it was ended, or this machine sleeps. This page goes on when it is back."); }
}
async function follow(area) {
  for (;;) {
    await new Promise(done => setTimeout(done, 1000 * area.dataset.every));
    if (!document.hidden) await look(area);
  }
}

document.addEventListener("click", async event => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy id"; }, 1500);
});
document.querySelectorAll("form[data-filter]").forEach(form => {
  form.oninput = () => filter(form);
  form.onsubmit = event => event.preventDefault();
});
prepare(document);
document.querySelectorAll("[data-live]").forEach(follow);
const again = document.querySelector("[data-again]");
if (again) setTimeout(() => location.reload(), 1000 * again.dataset.again);
