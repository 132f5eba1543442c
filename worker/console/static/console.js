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
