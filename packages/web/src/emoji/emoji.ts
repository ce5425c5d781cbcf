// A small set of emoji, each with names in English and German. Screen readers get the first one.

import type { Key } from "../i18n/catalogue.js";

export interface Emoji {
  char: string;
  names: { en: string[]; de: string[] };
}

const FACES = `😀 grinning happy|grinsen froh;😃 smile happy|lachen froh;😄 laugh joy|lachen freude;😁 beaming|strahlen;😆 laughing|lachen;😅 sweat relief|schwitzen erleichtert;😂 tears joy lol|tränen lachen;🤣 rofl rolling|kugeln lachen;🙂 slight smile|lächeln;🙃 upside-down|kopfüber;😉 wink|zwinkern;😊 blush|erröten;😇 angel halo|engel;🥰 love hearts|verliebt;😍 heart-eyes|herzaugen;🤩 star-struck wow|begeistert;😘 kiss|kuss;😋 yum tasty|lecker;😜 tongue wink|zunge;🤪 zany crazy|verrückt;🤗 hug|umarmung;🤭 giggle oops|kichern;🤫 shush quiet|leise pst;🤔 thinking hmm|nachdenken;🤐 zipper mouth|verschwiegen;🤨 raised-eyebrow|skeptisch;😐 neutral|neutral;😏 smirk|schmunzeln;🙄 eye-roll|augenrollen;😬 grimace|grimasse;😌 relieved|erleichtert;😔 pensive sad|bedrückt;😴 sleeping|schlafen;🤒 sick fever|krank;🤕 hurt bandage|verletzt;🤢 nausea|übel;🤧 sneeze|niesen;🥵 hot|heiß;🥶 cold|kalt;🥴 woozy|benommen;😵 dizzy|schwindlig;🤯 mind-blown|explodiert;🥳 party|feiern;😎 cool sunglasses|cool sonnenbrille;🤓 nerd|streber;🧐 monocle|monokel;😕 confused|verwirrt;🙁 frown|traurig;😮 wow surprised|überrascht;😳 flushed|verlegen;🥺 pleading|bitte;😢 crying sad|weinen traurig;😭 sobbing|heulen;😱 scream|schrei;😤 huff|schnauben;😡 angry|wütend;🤬 swearing|fluchen;💀 skull|totenkopf;💩 poop|haufen;🤡 clown|clown;👻 ghost|geist;👽 alien|außerirdischer;🤖 robot bot|roboter`;
const PEOPLE = `👍 thumbs-up yes|daumen-hoch ja;👎 thumbs-down no|daumen-runter nein;👏 clap bravo|klatschen;🙌 hooray|hurra;🙏 please thanks|bitte danke;🤝 handshake deal|handschlag;👋 wave hello bye|winken hallo;✋ hand stop|hand halt;🤚 back-of-hand|handrücken;👌 ok|okay;🤌 pinched|finger;✌️ victory peace|sieg frieden;🤞 fingers-crossed luck|daumen-drücken glück;🤟 love-you|liebe;🤘 rock|rock;👈 left|links;👉 right|rechts;👆 up|oben;👇 down|unten;☝️ index-up|zeigefinger;💪 strong muscle|stark muskel;✍️ writing|schreiben;🧠 brain|gehirn;👀 eyes look|augen schauen;👂 ear listen|ohr hören;👶 baby|baby;🧑 person|person;👩‍💻 developer|entwicklerin;🧑‍🔧 mechanic|mechaniker;🧑‍🍳 cook|koch;🤷 shrug|schulterzucken;🤦 facepalm|stirn;🙋 raising-hand|melden;💃 dancing|tanzen;🏃 running|rennen;🧘 meditation|meditation;👪 family|familie`;
const NATURE = `🐶 dog|hund;🐱 cat|katze;🐭 mouse|maus;🐹 hamster|hamster;🐰 rabbit|hase;🦊 fox|fuchs;🐻 bear|bär;🐼 panda|panda;🐯 tiger|tiger;🦁 lion|löwe;🐮 cow|kuh;🐷 pig|schwein;🐸 frog|frosch;🐵 monkey|affe;🐔 chicken|huhn;🐧 penguin|pinguin;🐦 bird|vogel;🦉 owl|eule;🦄 unicorn|einhorn;🐝 bee|biene;🐛 bug|raupe;🦋 butterfly|schmetterling;🐢 turtle|schildkröte;🐍 snake|schlange;🐙 octopus|krake;🐬 dolphin|delfin;🐳 whale|wal;🌱 seedling|keimling;🌳 tree|baum;🌵 cactus|kaktus;🍀 clover luck|klee glück;🌸 blossom|blüte;🌻 sunflower|sonnenblume;🌹 rose|rose;🍁 leaf autumn|blatt herbst;🌞 sun|sonne;🌙 moon|mond;⭐ star|stern;🌈 rainbow|regenbogen;☁️ cloud|wolke;⛈️ storm|gewitter;❄️ snow|schnee;🔥 fire hot|feuer;💧 drop water|tropfen wasser;🌊 wave sea|welle meer`;
const FOOD = `🍎 apple|apfel;🍐 pear|birne;🍊 orange|orange;🍋 lemon|zitrone;🍌 banana|banane;🍉 melon|melone;🍇 grapes|trauben;🍓 strawberry|erdbeere;🍒 cherries|kirschen;🍑 peach|pfirsich;🥑 avocado|avocado;🍅 tomato|tomate;🥕 carrot|karotte;🌽 corn|mais;🍞 bread|brot;🥐 croissant|croissant;🥨 pretzel|brezel;🧀 cheese|käse;🥚 egg|ei;🍔 burger|burger;🍟 fries|pommes;🍕 pizza|pizza;🌮 taco|taco;🥗 salad|salat;🍝 pasta|nudeln;🍜 soup|suppe;🍣 sushi|sushi;🍦 ice-cream|eis;🍩 donut|donut;🍪 cookie|keks;🎂 cake birthday|torte geburtstag;🍫 chocolate|schokolade;☕ coffee|kaffee;🍵 tea|tee;🥛 milk|milch;🍺 beer|bier;🍻 cheers|prost;🍷 wine|wein;🥂 toast|anstoßen`;
const ACTIVITIES = `🎉 party tada|feier;🎊 confetti|konfetti;🎈 balloon|ballon;🎁 gift|geschenk;🏆 trophy|pokal;🥇 gold first|gold erste;⚽ football|fußball;🏀 basketball|basketball;🎾 tennis|tennis;🎯 target|ziel;🎲 dice game|würfel spiel;🎮 gaming|videospiel;🧩 puzzle|puzzle;🎸 guitar|gitarre;🎹 piano|klavier;🎧 headphones|kopfhörer;🎵 music|musik;🎬 film|film;🎨 art|kunst;📷 camera|kamera;🚲 bicycle|fahrrad;🚗 car|auto;🚆 train|zug;✈️ plane|flugzeug;🚀 rocket ship|rakete;⛵ boat|boot;🏠 house home|haus;🏖️ beach|strand;⛰️ mountain|berg;🏕️ camping|zelten`;
const OBJECTS = `💻 laptop|laptop;📱 phone|telefon;☎️ telephone|telefon;🔌 plug|stecker;🔋 battery|akku;💡 idea light|idee licht;🔦 torch|taschenlampe;🔧 wrench|schraubenschlüssel;🔨 hammer|hammer;⚙️ gear settings|zahnrad;🔒 lock|schloss;🔑 key|schlüssel;📦 package|paket;📫 mailbox|briefkasten;✉️ envelope|brief;📝 memo note|notiz;📅 calendar|kalender;📌 pin|pinnnadel;📎 paperclip|büroklammer;✂️ scissors|schere;📈 chart up|kurve;📉 chart down|kurve;📚 books|bücher;🔍 search|suche;🗑️ bin|mülleimer;⏰ alarm clock|wecker;⏳ hourglass|sanduhr;💰 money|geld;💳 card|karte;🛒 cart|einkaufswagen;🧪 test tube|reagenzglas;💊 pill|tablette;🧹 broom|besen;🛡️ shield|schild;🧭 compass|kompass`;
const SYMBOLS = `❤️ heart love|herz liebe;🧡 orange-heart|oranges-herz;💛 yellow-heart|gelbes-herz;💚 green-heart|grünes-herz;💙 blue-heart|blaues-herz;💜 purple-heart|lila-herz;🖤 black-heart|schwarzes-herz;🤍 white-heart|weißes-herz;💔 broken-heart|gebrochenes-herz;💯 hundred|hundert;✅ done check|fertig haken;☑️ checkbox|kästchen;❌ cross no|kreuz nein;❗ exclamation|ausrufezeichen;❓ question|fragezeichen;⚠️ warning|warnung;🚫 forbidden|verboten;♻️ recycle|recycling;➕ plus|plus;➖ minus|minus;➡️ arrow right|pfeil rechts;⬅️ arrow left|pfeil links;⬆️ arrow up|pfeil hoch;⬇️ arrow down|pfeil runter;🔄 repeat|wiederholen;⏸️ pause|pause;▶️ play|abspielen;🔴 red circle|roter kreis;🟡 yellow circle|gelber kreis;🟢 green circle|grüner kreis;🔵 blue circle|blauer kreis;✨ sparkles|funkeln;💥 boom|knall;💤 zzz sleep|schlaf;💬 speech|sprechblase;👁️ eye|auge`;

/** Parses the names after the emoji: English, a bar, German. A hyphen stands for a space inside a name. */
function parseEmojiTable(table: string): Emoji[] {
  return table.split(";").map((entry) => {
    const space = entry.indexOf(" ");
    const [en = "", de = ""] = entry.slice(space + 1).split("|");
    const words = (names: string) => names.split(" ").map((name) => name.replaceAll("-", " "));
    return { char: entry.slice(0, space), names: { en: words(en), de: words(de) } };
  });
}

export const GROUPS: readonly { key: Extract<Key, `emoji${string}`>; emoji: readonly Emoji[] }[] = [
  { key: "emojiFaces", emoji: parseEmojiTable(FACES) },
  { key: "emojiPeople", emoji: parseEmojiTable(PEOPLE) },
  { key: "emojiNature", emoji: parseEmojiTable(NATURE) },
  { key: "emojiFood", emoji: parseEmojiTable(FOOD) },
  { key: "emojiActivities", emoji: parseEmojiTable(ACTIVITIES) },
  { key: "emojiObjects", emoji: parseEmojiTable(OBJECTS) },
  { key: "emojiSymbols", emoji: parseEmojiTable(SYMBOLS) },
];
