'use strict'; // preloaded next to the shim, and to be left alone
