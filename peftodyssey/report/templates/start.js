// Restores the view that the address describes.
function restore() {
  readAddress();
  document.dispatchEvent(new Event("restored"));
  if (state.doc !== undefined && byId("reader")) byId("reader").scrollIntoView();
}
window.addEventListener("hashchange", () => { if (window.location.hash.includes("=")) restore(); });
restore();
