"use strict";
(() => {
  // The theme of the system until the reader chooses one. Local files may have no storage.
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const stored = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("offnominal-theme", value);
      return localStorage.getItem("offnominal-theme");
    } catch {
      return null;
    }
  };
  const show = (theme) => {
    root.dataset.theme = theme;
    button.setAttribute("aria-pressed", String(theme === "dark"));
  };
  show(stored() || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  button.addEventListener("click", () => {
    const next = root.dataset.theme === "dark" ? "light" : "dark";
    stored(next);
    show(next);
  });
})();
