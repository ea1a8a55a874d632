// What the page says, in the visitor's language: one table, words.json.

const table = await (await fetch(new URL("words.json", import.meta.url), { mode: "cors", credentials: "same-origin" })).json();
const names = Object.keys(table.languages);
const kept = () => { try { return localStorage.getItem("language"); } catch { return null; } };
const asked = [kept(), ...navigator.languages].map((name) => name?.slice(0, 2)).find((name) => names.includes(name));
let language = asked ?? "en";

/** A sentence; {name} in it becomes values.name. */
export function say(key, values = {}) {
  const text = table.words[key][names.indexOf(language)];
  return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** A number as the language writes it. */
export const number = (value, digits = 1) =>
  value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** Put the table's words into all elements with data-say. */
export function translate(root = document) {
  for (const element of root.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
}

/** Fill the list of languages; changed() is called when another one is chosen. */
export function offer(list, changed) {
  list.append(...Object.entries(table.languages).map(([name, own]) => new Option(own, name, false, name === language)));
  const use = () => {
    document.documentElement.lang = language;
    translate();
    changed();
  };
  list.addEventListener("change", () => {
    language = list.value;
    try { localStorage.setItem("language", language); } catch { /* it is forgotten */ }
    use();
  });
  use();
}
