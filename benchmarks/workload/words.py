"""Text that nobody has sent before, of about so many tokens."""

import random

# Common words: with a space before it, each is one token of a large vocabulary.
_LIST = """
    able above across action address after again against almost along already also always among
    another answer around article author away back bank base because become before begin behind
    best better between beyond black board body book both bring build business call came camera
    care carry cause center certain chance change charge child choice city class clear close cold
    color come common company cost could country course cover create current dark data date deal
    deep design detail different door down draw drive each early earth east easy effect energy
    enough even evening event every example face fact family far fast field final find fire first
    five floor follow food force form forward four free friend front full future game garden
    general give glass good great green ground group grow hand happen hard have head health hear
    heart heavy help high history hold home hope hour house human idea image important inside
    island job keep kind know land language large last late later lead learn leave left less
    letter level life light line list little live local long look machine main make many map mark
    market matter mean measure meet member method middle might mind minute model moment money
    month more morning most mother move much music name nature near need network never next night
    north note nothing number object office often open order other outside over page paper part
    party pass past path people period person picture piece place plan plant play point power
    present press price problem process product public question quick quiet race rain range reach
    read ready real reason record report rest result return right river road rock room round rule
    same school science season second section seem sense series serve seven several shape short
    show side sign simple since single site size small social sound source south space special
    spring stage stand star start state station step still stone stop store story street strong
    study style sun surface system table take talk team test thing think third thought three time
    together tool top town trade train tree true turn under unit until upper value very view voice
    walk wall war warm watch water week weight west white whole wide wind window winter woman wood
    word work world write year yellow young
"""
WORDS = tuple(_LIST.split())
_NUM_TAG_TOKENS = 9  # of 8 hexadecimal digits and a full stop, roughly


def unique_text(generator: random.Random, num_tokens: int, question: str) -> str:
    """Eight random digits, random words and the question: about `num_tokens` tokens together.

    No two texts begin alike, so that a prefix cache ends where the text begins. A text is never
    shorter than digits, one word and question.
    """
    num_words = max(1, num_tokens - _NUM_TAG_TOKENS - len(question.split()))
    words = " ".join(generator.choices(WORDS, k=num_words))
    return f"{generator.getrandbits(32):08x} {words}. {question}"
