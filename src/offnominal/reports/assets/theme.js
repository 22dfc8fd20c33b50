"use strict";
(() => {
  // Light or dark: what the system says, until the reader chooses. Storage may be closed to local files.
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
