// Conveniences only: every page works without this file.
"use strict";

// After the session has ended, a refresh of a part gets the form to sign in: show it.
document.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status === 401) location.reload();
});

// Pages that nobody looks at ask for nothing, and a part in use is not replaced under the reader.
document.addEventListener("htmx:beforeRequest", (event) => {
  const selecting = !getSelection().isCollapsed;
  if (document.hidden || selecting) event.preventDefault();
});

// j and k go to the next and the previous input, / to the filter.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const link = { j: "next", k: "previous" }[event.key];
  if (link) document.getElementById(link)?.click();
  if (event.key === "/") {
    const field = document.querySelector("form.filter input");
    if (field) {
      event.preventDefault();
      field.focus();
    }
  }
});

const copy = document.getElementById("copy-link");
if (copy && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(location.href);
    copy.textContent = "Copied";
  });
}
