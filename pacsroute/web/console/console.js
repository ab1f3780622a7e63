"use strict";
// Refreshes the parts of the page that change; without it the page is as readable, and stays as it was.
(() => {
  const every = 5000; // milliseconds
  const parts = () => document.querySelectorAll("[data-live]");
  if (!document.getElementById("live")) return;
  let held = false;

  const shown = () => {
    const live = document.getElementById("live");
    live.hidden = false;
    const hold = document.getElementById("hold");
    hold.setAttribute("aria-pressed", String(held));
    hold.textContent = held ? "Go on" : "Hold";
    hold.onclick = () => { held = !held; shown(); if (!held) refresh(); };
  };

  const inUse = part => part.contains(document.activeElement)
    || (!getSelection().isCollapsed && part.contains(getSelection().anchorNode));

  const refresh = async () => {
    if (held || document.hidden) return;
    try {
      const answer = await fetch(location.pathname, { cache: "no-store" });
      if (!answer.ok) throw new Error(answer.statusText);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of parts()) {
        const fresh = page.getElementById(part.id);
        if (!fresh || inUse(part)) continue;
        if (part.innerHTML !== fresh.innerHTML) part.innerHTML = fresh.innerHTML;
      }
      document.body.classList.remove("lost");
      shown();
    } catch {
      document.body.classList.add("lost");
    }
  };

  shown();
  setInterval(refresh, every);
  document.addEventListener("visibilitychange", refresh);
})();
