// Keeps a page up to date: the server sends fields, which are put in their
// places as text or as the values of a few attributes. No markup is made of
// what comes; the page's policy would not let that happen either.
"use strict";
(() => {
  const page = document.body;
  const rows = new Map();
  for (const row of document.querySelectorAll("[data-row]")) rows.set(row.dataset.row, row);
  const lists = new Map();
  for (const list of document.querySelectorAll("[data-list]")) lists.set(list.dataset.list, list);

  // The same words as age in words.go.
  const age = (from) => {
    const s = Math.max(0, Math.floor((Date.now() - Date.parse(from)) / 1000));
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min";
    if (s < 48 * 3600) return Math.floor(s / 3600) + " h";
    return Math.floor(s / 86400) + " d";
  };
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const ages = () => {
    for (const time of document.querySelectorAll("time[datetime]")) put(time, age(time.dateTime));
  };

  const attributes = { d: "d", l: "aria-label", s: "data-state", t: "datetime", h: "href", c: "aria-current" };
  const bound = "[data-f],[data-if],[data-d],[data-l],[data-s],[data-t],[data-h],[data-c]";
  const show = (row, fields) => {
    for (const element of row.querySelectorAll(bound)) {
      const data = element.dataset;
      if (data.f in fields) put(element, fields[data.f]);
      if (data.if in fields) element.toggleAttribute("hidden", fields[data.if] === "");
      for (const [key, name] of Object.entries(attributes)) {
        const value = fields[data[key]];
        if (value === undefined || (name === "href" && value !== "" && !/^\/(\?|$)/.test(value))) continue;
        if (value === "") element.removeAttribute(name);
        else element.setAttribute(name, value);
      }
    }
    if (row === page && fields.title) document.title = fields.title;
  };
  const make = (list, id) => {
    const row = document.getElementById("row-" + list).content.firstElementChild.cloneNode(true);
    row.dataset.row = id;
    for (const button of row.querySelectorAll("[data-copy]")) button.hidden = false;
    return row;
  };
  // Rows that stay are moved only where their order is another, so that what
  // has the focus keeps it.
  const arrange = (name, ids) => {
    const list = lists.get(name), wanted = new Set(ids);
    for (const row of [...list.children]) {
      if (!wanted.has(row.dataset.row)) { rows.delete(row.dataset.row); row.remove(); }
    }
    let at = list.firstElementChild;
    for (const id of ids) {
      let row = rows.get(id);
      if (!row) { row = make(name, id); rows.set(id, row); }
      if (row === at) at = at.nextElementSibling;
      else list.insertBefore(row, at);
    }
  };
  const update = ({ rows: changed = {}, lists: orders = {} }) => {
    const focus = document.activeElement;
    for (const [name, ids] of Object.entries(orders)) arrange(name, ids);
    for (const [id, fields] of Object.entries(changed)) {
      const row = rows.get(id);
      if (row) show(row, fields);
    }
    if (focus !== document.activeElement && focus.isConnected) focus.focus({ preventScroll: true });
    ages();
  };

  const most = 200;
  const missed = document.getElementById("missed"), none = document.getElementById("none");
  let lost = 0, number = 0;
  const append = ({ events = [], missed: more = 0 }) => {
    const list = lists.get("events");
    for (const event of events) {
      const row = make("events", "e:" + number++);
      show(row, event);
      list.prepend(row);
    }
    while (list.childElementCount > most) list.lastElementChild.remove();
    lost += more;
    missed.hidden = lost === 0;
    if (more > 0) put(missed, lost + " more were delivered than can be shown here.");
    none.hidden = list.childElementCount > 0;
  };

  const live = document.getElementById("live");
  const say = (state, words) => { live.dataset.state = state; put(live, words); };
  const take = page.dataset.live === "/live/events" ? append : update;
  let source, again;
  const close = () => { clearTimeout(again); if (source) source.close(); };
  const open = () => {
    close();
    say("off", "connecting"); // what is delivered meanwhile is missed
    source = new EventSource(page.dataset.live + location.search);
    source.onopen = () => { say("on", "live"); if (none) put(none, "Nothing has been delivered since this page was opened."); };
    source.onmessage = (message) => take(JSON.parse(message.data));
    source.onerror = () => {
      say("lost", "not live, trying again");
      if (source.readyState === EventSource.CLOSED) again = setTimeout(open, 10000); // refused, not lost
    };
  };
  // A page that nobody sees costs nothing.
  let paused = false;
  const visible = () => {
    if (document.hidden) { close(); say("off", "not live"); } else if (!paused) open();
  };
  document.addEventListener("visibilitychange", visible);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) visible(); });

  const form = document.querySelector("form.filter");
  if (form) {
    let typing;
    const filter = () => {
      clearTimeout(typing);
      const query = new URLSearchParams(new FormData(form));
      for (const [name, value] of [...query]) if (value === "") query.delete(name);
      const search = query.toString();
      history.replaceState(null, "", location.pathname + (search ? "?" + search : ""));
      const list = lists.get("events");
      if (list) { list.replaceChildren(); lost = 0; append({}); }
      if (!paused) open();
    };
    form.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filter, 250); });
    form.addEventListener("submit", (event) => { event.preventDefault(); filter(); });
  }
  const pause = document.getElementById("pause");
  if (pause) {
    pause.hidden = false;
    pause.addEventListener("click", () => {
      paused = !paused;
      pause.setAttribute("aria-pressed", String(paused));
      if (paused) { close(); say("off", "paused"); } else open();
    });
  }

  for (const button of document.querySelectorAll("tr [data-copy]")) button.hidden = false;
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = button.parentElement.querySelector("pre");
    try {
      await navigator.clipboard.writeText(text.textContent);
      put(button, "Copied");
    } catch { // not over plain HTTP, but on loopback: selected, it can be copied by hand
      getSelection().selectAllChildren(text);
      put(button, "Selected");
    }
    setTimeout(() => put(button, "Copy"), 2000);
  });

  setInterval(ages, 1000);
  visible();
})();
