// Makes the pages quick: what is marked data-live is renewed, keys lead around, dead letters are
// handled behind a confirmation. Without JavaScript every page is right all the same.
"use strict";

const every = 2000;
const here = location.pathname + location.search;
const words = document.getElementById("say").dataset;
const liveButton = document.getElementById("live");
let isLive = Boolean(liveButton) && sessionStorage.getItem("paused") !== "yes";

// -- live ------------------------------------------------------------------------------------

function showLive(isAway = false) {
  if (!liveButton) return;
  liveButton.hidden = false;
  liveButton.setAttribute("aria-pressed", String(isLive));
  liveButton.querySelector(".word").textContent = isAway ? words.away : isLive ? words.liveWord : words.paused;
}

function seen() {
  return new Set(Array.from(document.querySelectorAll("[data-row]"), (row) => row.dataset.row));
}

async function renew() {
  if (!isLive || document.hidden || document.querySelector("dialog[open]")) return;
  const main = document.getElementById("main");
  try {
    const answer = await fetch(here, {cache: "no-store", signal: AbortSignal.timeout(8000)});
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    // Who selects text, or stands on something in it, keeps it.
    if (!isLive || !getSelection().isCollapsed) return;
    const before = seen();
    for (const old of document.querySelectorAll("[data-live]")) {
      const made = page.getElementById(old.id);
      if (!made) { if (old.id === "building") old.remove(); continue; }
      if (old.contains(document.activeElement)) continue;
      for (const open of old.querySelectorAll("details[open]")) page.getElementById(open.id)?.setAttribute("open", "");
      if (old.innerHTML !== made.innerHTML) old.replaceWith(made);
    }
    if (before.size) {
      for (const row of document.querySelectorAll("[data-row]")) row.classList.toggle("new", !before.has(row.dataset.row));
    }
    main.classList.remove("stale");
    showLive();
  } catch {
    main.classList.add("stale");
    showLive(true);
  }
}

function toggleLive() {
  isLive = !isLive;
  sessionStorage.setItem("paused", isLive ? "no" : "yes");
  showLive();
  renew();
}

if (liveButton) {
  liveButton.addEventListener("click", toggleLive);
  showLive();
  setInterval(renew, every);
}

// What isn't filled in doesn't stand in the URL.
document.querySelector("form.filters")?.addEventListener("submit", (event) => {
  for (const field of event.target.querySelectorAll("input, select")) field.disabled = !field.value;
});

// -- keys --------------------------------------------------------------------------------------

const help = document.getElementById("help");
const helpButton = document.getElementById("help-button");
let isGoing = false;

helpButton.hidden = false;
helpButton.addEventListener("click", () => help.showModal());

function step(by) {
  const rows = Array.from(document.querySelectorAll("a.row"));
  if (!rows.length) return;
  const now = rows.indexOf(document.activeElement);
  const next = rows[Math.min(Math.max(now + by, 0), rows.length - 1)];
  document.querySelector(".chosen")?.classList.remove("chosen");
  next.closest("tr, li")?.classList.add("chosen");
  next.focus();
  next.scrollIntoView({block: "nearest"});
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  if (isGoing) {
    isGoing = false;
    const link = document.querySelector(`nav [data-key="${CSS.escape(event.key)}"]`);
    if (link) { event.preventDefault(); link.click(); return; }
  }
  switch (event.key) {
    case "/": event.preventDefault(); document.getElementById("search").select(); break;
    case "j": step(1); break;
    case "k": step(-1); break;
    case "p": if (liveButton) toggleLive(); break;
    case "g": isGoing = true; setTimeout(() => { isGoing = false; }, 1500); break;
    case "?": help.showModal(); break;
    default: return;
  }
});

// -- dead letters --------------------------------------------------------------------------------

const actions = document.getElementById("actions");
if (actions) {
  const order = document.getElementById("order");
  const say = order.dataset;
  const plan = document.getElementById("plan");
  const refusals = document.getElementById("refusals");
  const why = document.getElementById("why");
  const go = document.getElementById("order-do");
  const close = document.getElementById("order-close");
  const all = document.getElementById("select-all");
  let verb = "redrive";
  let isDone = false;

  const boxes = () => Array.from(document.querySelectorAll("input[name=letter]"));
  const chosen = () => boxes().filter((box) => box.checked).map((box) => box.value);

  function count() {
    const number = chosen().length;
    document.querySelector("#count b").textContent = number;
    for (const button of actions.querySelectorAll("button")) button.disabled = !number;
    if (all) {
      all.checked = number > 0 && number === boxes().length;
      all.indeterminate = number > 0 && number < boxes().length;
    }
  }

  async function ask(execute) {
    const answer = await fetch(`/api/dead-letters/${verb}`, {
      method: "POST",
      headers: {"Content-Type": "application/json"},
      // A plan needs no reason yet.
      body: JSON.stringify({letters: chosen(), why: why.value || (execute ? "" : "plan") || null, execute}),
    });
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.msg);
    return said;
  }

  function show(said) {
    const counts = said.counts;
    const will = verb === "redrive" ? say.willRedrive : say.willDiscard;
    plan.textContent = `${counts[verb]} ${will}` + (counts.refused ? ` · ${counts.refused} ${say.refused}` : "");
    refusals.replaceChildren(...said.letters.filter((one) => one.action === "refused").map((one) => {
      const item = document.createElement("li");
      item.textContent = `${one.letter}: ${one.why}`;
      return item;
    }));
    return counts[verb];
  }

  function ready() {
    go.disabled = isDone || !Number(go.dataset.count) || (verb === "discard" && !why.value.trim());
  }

  actions.hidden = false;
  document.getElementById("without-script").hidden = true;
  document.addEventListener("change", (event) => {
    if (event.target === all) for (const box of boxes()) box.checked = all.checked;
    count();
  });
  count();

  for (const button of actions.querySelectorAll("button")) {
    button.addEventListener("click", async () => {
      verb = button.dataset.verb;
      isDone = false;
      document.getElementById("order-title").textContent = verb === "redrive" ? say.redrive : say.discard;
      document.getElementById("why-field").hidden = verb !== "discard";
      plan.textContent = say.planning;
      refusals.replaceChildren();
      go.dataset.count = 0;
      go.hidden = false;
      ready();
      order.showModal();
      try {
        go.dataset.count = show(await ask(false));
        ready();
      } catch (error) {
        plan.textContent = `${say.failed}: ${error.message}`;
      }
    });
  }
  why.addEventListener("input", ready);
  close.addEventListener("click", () => order.close());
  order.addEventListener("close", () => { if (isDone) location.reload(); });
  go.addEventListener("click", async () => {
    go.disabled = true;
    try {
      const said = await ask(true);
      isDone = true;
      show(said);
      plan.textContent = `${say.done} ${plan.textContent}`;
      go.hidden = true;
      close.focus();
    } catch (error) {
      plan.textContent = `${say.failed}: ${error.message}`;
      ready();
    }
  });
}
