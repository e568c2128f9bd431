// Renews <main> every other second, without a flash and without losing the place; can be paused.
// Without JavaScript the page is right all the same, and as old as it is.
const every = 2000;
const here = location.pathname + location.search;
const button = document.getElementById("pause");
const word = document.getElementById("refresh");
let isPaused = location.hash === "#paused";

function show() {
  button.hidden = false;
  button.textContent = isPaused ? "Go on" : "Pause";
  word.textContent = isPaused ? "paused" : "renewed every 2 s";
}

async function renew() {
  if (isPaused || document.hidden) return;
  const main = document.querySelector("main");
  try {
    const answer = await fetch(here, {cache: "no-store", signal: AbortSignal.timeout(5000)});
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (isPaused) return;
    for (const open of main.querySelectorAll("details[open]")) page.getElementById(open.id)?.setAttribute("open", "");
    main.replaceWith(page.querySelector("main"));
    document.title = page.title;
    show();
  } catch {
    main.classList.add("stale");
    word.textContent = "the worker doesn't answer; this is how it was";
  }
}

button.addEventListener("click", () => {
  isPaused = !isPaused;
  history.replaceState(null, "", here + (isPaused ? "#paused" : ""));
  show();
  renew();
});
show();
setInterval(renew, every);
