// does not parse
const a = ;
