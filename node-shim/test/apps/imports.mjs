// imports what is not there
import './does-not-exist.mjs';
