// The source plays along with the result, and a line moves over its curve.
(() => {
  // Media events do not bubble, so they are caught on their way down.
  const on = (name, act) => document.addEventListener(name, ({ target }) => {
    if (target instanceof HTMLVideoElement && target.classList.contains("result")) act(target);
  }, true);
  const follow = (result) => {
    document.querySelector(".curve .plot")
      ?.style.setProperty("--at", `${(100 * result.currentTime) / result.duration}%`);
    const source = result.closest(".pair").querySelector("video.source");
    if (!source) return;
    source.playbackRate = result.playbackRate;
    if (Math.abs(source.currentTime - result.currentTime) > 0.1) source.currentTime = result.currentTime;
    if (source.paused !== result.paused) result.paused ? source.pause() : source.play();
  };
  for (const name of ["play", "pause", "ended", "seeking", "ratechange", "timeupdate"]) on(name, follow);
  // What screen readers are to say aloud.
  new MutationObserver((_, observer) => {
    const said = document.getElementById("said");
    if (said) { said.setAttribute("aria-live", "polite"); observer.disconnect(); }
  }).observe(document.documentElement, { childList: true, subtree: true });
})();
