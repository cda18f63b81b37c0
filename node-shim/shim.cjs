'use strict'; // placeholder
