// SPDX-License-Identifier: MIT
/* moectl completion SHELL: scripts for the shells, made of the tables that parsing
 * and help follow. */
#include "cli/moectl.h"
#include "experiment/schema.h"
#include <string.h>

/* The words a value or operand is one of, with blanks between; a choice that is no
 * list of words prints nothing. */
static void print_words(offer offer, const char *words) {
  if (offer == OFFER_WORDS) fputs(words, stdout);
  if (offer == OFFER_KEYS)
    for (int i = 0; i < KEY_COUNT; i++)
      printf("%s%s=", i > 0 ? " " : "", schema_get((schema_id)i)->name);
  if (offer == OFFER_TOPIC) {
    for (const help_topic *t = help_topics; t->name; t++) printf("%s ", t->name);
    for (const cli_command *c = cli_commands; c->name; c++)
      printf("%s%s", c > cli_commands ? " " : "", c->name);
  }
}

static bool is_words(offer offer) {
  return offer == OFFER_WORDS || offer == OFFER_KEYS || offer == OFFER_TOPIC;
}

static void print_commands(void) {
  for (const cli_command *c = cli_commands; c->name; c++) printf("%s ", c->name);
  fputs("--version --help", stdout);
}

static void print_options(const cli_command *command) {
  const char *blank = "";
  for (const cli_option *o = cli_options; o->name; o++) {
    if (!cli_accepts(command, o)) continue;
    printf("%s%s", blank, o->name);
    blank = " ";
  }
}

/* Two commands may have an option of one name, which differ in their help alone. */
static bool is_repeated(const cli_option *option) {
  for (const cli_option *o = cli_options; o < option; o++)
    if (strcmp(o->name, option->name) == 0) return true;
  return false;
}

/* In a text between single quotes, of any of the shells. */
static void print_quoted(const char *text) {
  for (; *text; text++)
    if (*text == '\'') fputs("'\\''", stdout);
    else putchar(*text);
}

/* ---- bash ---- */

/* What fills COMPREPLY with an offer. */
static void bash_offer(offer offer, const char *words) {
  if (is_words(offer)) {
    fputs("words='", stdout);
    print_words(offer, words);
    putchar('\'');
    if (offer == OFFER_KEYS) fputs("; compopt -o nospace 2>/dev/null", stdout);
  } else if (offer == OFFER_FOLDER) {
    fputs("pattern=", stdout);
  } else if (offer == OFFER_YAML) {
    fputs("pattern='*.y*ml'", stdout);
  } else if (offer == OFFER_FILE) {
    fputs("pattern='*'", stdout);
  } else {
    fputs("return", stdout);
  }
}

static void print_bash(void) {
  fputs("# moectl's completion for bash; made by: moectl completion bash\n"
        "_moectl() {\n"
        "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words pattern\n"
        "  COMPREPLY=()\n"
        "  # bash parts words at '=': --out=DIR is three.\n"
        "  [[ $word == = ]] && word=''\n"
        "  [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD-2]}\n"
        "  if ((COMP_CWORD == 1)); then\n    words='",
        stdout);
  print_commands();
  fputs("'\n  else\n    case $before in\n", stdout);
  for (const cli_option *o = cli_options; o->name; o++) {
    if (!o->value || is_repeated(o)) continue;
    printf("      %s) ", o->name);
    bash_offer(o->offer, o->words);
    fputs(" ;;\n", stdout);
  }
  fputs("      *)\n        case ${COMP_WORDS[1]}:$word in\n", stdout);
  for (const cli_command *c = cli_commands; c->name; c++) {
    printf("          %s:-*) words='", c->name);
    print_options(c);
    printf("' ;;\n          %s:*) ", c->name);
    bash_offer(c->offer, c->words);
    fputs(" ;;\n", stdout);
  }
  fputs("        esac ;;\n"
        "    esac\n"
        "  fi\n"
        "  if [[ -v words ]]; then\n"
        "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\")\n"
        "  elif [[ -v pattern ]]; then # of files, besides folders\n"
        "    compopt -o filenames 2>/dev/null\n"
        "    mapfile -t COMPREPLY < <(compgen -f -X \"!$pattern\" -- \"$word\"\n"
        "                             compgen -d -- \"$word\")\n"
        "  fi\n"
        "}\n"
        "complete -F _moectl moectl\n",
        stdout);
}

/* ---- zsh ---- */

static void zsh_offer(offer offer, const char *words) {
  if (is_words(offer)) {
    printf("compadd %s-- ", offer == OFFER_KEYS ? "-S '' " : "");
    print_words(offer, words);
  } else if (offer == OFFER_FOLDER) {
    fputs("_files -/", stdout);
  } else if (offer == OFFER_YAML) {
    fputs("_files -g '*.(yaml|yml)'", stdout);
  } else {
    fputs(offer == OFFER_FILE ? "_files" : "return 1", stdout);
  }
}

static void print_zsh(void) {
  fputs("#compdef moectl\n"
        "# moectl's completion for zsh; made by: moectl completion zsh\n"
        "if ((CURRENT == 2)); then\n  compadd -- ",
        stdout);
  print_commands();
  fputs("\n  return\nfi\ncase $words[CURRENT-1] in\n", stdout);
  for (const cli_option *o = cli_options; o->name; o++) {
    if (!o->value || is_repeated(o)) continue;
    printf("  %s) ", o->name);
    zsh_offer(o->offer, o->words);
    fputs("; return ;;\n", stdout);
  }
  fputs("esac\ncase $words[2]:$PREFIX in\n", stdout);
  for (const cli_command *c = cli_commands; c->name; c++) {
    printf("  %s:-*) compadd -- ", c->name);
    print_options(c);
    printf(" ;;\n  %s:*) ", c->name);
    zsh_offer(c->offer, c->words);
    fputs(" ;;\n", stdout);
  }
  fputs("esac\n", stdout);
}

/* ---- fish ---- */

static void fish_offer(offer offer, const char *words) {
  if (is_words(offer)) {
    fputs(" -a '", stdout);
    print_words(offer, words);
    putchar('\'');
  } else if (offer == OFFER_FOLDER) {
    fputs(" -a '(__fish_complete_directories)'", stdout);
  } else if (offer == OFFER_YAML || offer == OFFER_FILE) {
    fputs(" -F", stdout);
  }
}

static void print_fish(void) {
  fputs("# moectl's completion for fish; made by: moectl completion fish\n"
        "complete -c moectl -f\n"
        "complete -c moectl -n __fish_use_subcommand -l version -d 'its version'\n",
        stdout);
  for (const cli_command *c = cli_commands; c->name; c++) {
    printf("complete -c moectl -n __fish_use_subcommand -a %s -d '", c->name);
    print_quoted(c->summary);
    fputs("'\n", stdout);
    if (c->offer != OFFER_NOTHING) {
      printf("complete -c moectl -n '__fish_seen_subcommand_from %s'", c->name);
      fish_offer(c->offer, c->words);
      putchar('\n');
    }
    for (const cli_option *o = cli_options; o->name; o++) {
      if (!cli_accepts(c, o)) continue;
      printf("complete -c moectl -n '__fish_seen_subcommand_from %s' -l %s", c->name, o->name + 2);
      if (o->value) fputs(" -r", stdout);
      if (o->value && o->offer != OFFER_FILE) fputs(" -f", stdout);
      if (o->value) fish_offer(o->offer, o->words);
      fputs(" -d '", stdout);
      print_quoted(o->help);
      fputs("'\n", stdout);
    }
  }
}

int command_completion(const options *options) {
  if (strcmp(options->file, "bash") == 0) print_bash();
  else if (strcmp(options->file, "zsh") == 0) print_zsh();
  else if (strcmp(options->file, "fish") == 0) print_fish();
  else {
    complain("there is no completion for '%s'; expected bash, zsh or fish", options->file);
    return EXIT_USAGE;
  }
  return EXIT_ALL_OK;
}
