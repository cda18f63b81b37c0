'use strict';
// Dies before it listens, with a reason that the operator has to see.
throw new Error('no database today');
