'use strict';
// Lives and never listens.
setInterval(() => {}, 1000);
