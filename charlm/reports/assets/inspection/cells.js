// What each gate and state is, in plain words and as an equation. All of it is fixed text, so it may be HTML.
const sum = letter => `W<sub>${letter}</sub> x<sub>t</sub> + U<sub>${letter}</sub> h<sub>t−1</sub> + b<sub>${letter}</sub>`;
const kinds = {
  lstm: {
    name: "LSTM",
    signals: {
      cell: {
        title: "Cell state", symbol: "c", equation: "c<sub>t</sub> = f<sub>t</sub> ⊙ c<sub>t−1</sub> + i<sub>t</sub> ⊙ g<sub>t</sub>",
        words: "The unit’s memory. At each step it keeps a part of its old value and adds something new. It is not confined to the range from −1 to 1, so it can count, and it can hold a value for a long time.",
      },
      hidden: {
        title: "Hidden state", symbol: "h", equation: "h<sub>t</sub> = o<sub>t</sub> ⊙ tanh(c<sub>t</sub>)",
        words: "What the unit tells the rest of the network: its memory, squashed into the range from −1 to 1, as far as the output gate lets it through.",
      },
      forget: {
        title: "Forget gate", symbol: "f", equation: `f<sub>t</sub> = σ(${sum("f")})`,
        words: "How much of its old memory the unit keeps. At 1 it keeps all of it; at 0 it forgets and starts afresh.",
      },
      input: {
        title: "Input gate", symbol: "i", equation: `i<sub>t</sub> = σ(${sum("i")})`,
        words: "How much of the candidate is written to the memory. At 0 this step leaves no trace.",
      },
      candidate: {
        title: "Candidate", symbol: "g", equation: `g<sub>t</sub> = tanh(${sum("g")})`,
        words: "What could be written to the memory, from −1 to 1. How much of it is, the input gate decides.",
      },
      output: {
        title: "Output gate", symbol: "o", equation: `o<sub>t</sub> = σ(${sum("o")})`,
        words: "How much of the memory the unit shows. At 0 it keeps what it knows to itself, to show it later.",
      },
    },
    keeping: "forget gate",
  },
  gru: {
    name: "GRU",
    signals: {
      hidden: {
        title: "Hidden state", symbol: "h", equation: "h<sub>t</sub> = (1 − z<sub>t</sub>) ⊙ n<sub>t</sub> + z<sub>t</sub> ⊙ h<sub>t−1</sub>",
        words: "The unit’s memory, and what it tells the rest of the network. It is a mixture of its old value and the candidate, so it stays between −1 and 1.",
      },
      update: {
        title: "Update gate", symbol: "z", equation: `z<sub>t</sub> = σ(${sum("z")})`,
        words: "How much of its old value the unit keeps; the rest is replaced by the candidate. At 1 nothing changes.",
      },
      reset: {
        title: "Reset gate", symbol: "r", equation: `r<sub>t</sub> = σ(${sum("r")})`,
        words: "How much the old hidden values count in the candidate. At 0 the candidate depends on the new input alone.",
      },
      candidate: {
        title: "Candidate", symbol: "n", equation: "n<sub>t</sub> = tanh(W<sub>n</sub> x<sub>t</sub> + b<sub>n</sub> + r<sub>t</sub> ⊙ U<sub>n</sub> h<sub>t−1</sub>)",
        words: "What the old value could be replaced by, from −1 to 1.",
      },
    },
    keeping: "update gate",
  },
  rnn: {
    name: "simple recurrent network",
    signals: {
      hidden: {
        title: "Hidden state", symbol: "h", equation: "h<sub>t</sub> = tanh(W x<sub>t</sub> + U h<sub>t−1</sub> + b)",
        words: "The unit’s only number, computed anew at every step from the input and all hidden values before. There is no gate that could keep it, so long memories are hard to learn.",
      },
    },
  },
};
const kind = kinds[content.cell];
const symbolsExplained = "σ squashes any number into the range from 0 to 1, tanh from −1 to 1. x<sub>t</sub> is the input, h<sub>t−1</sub> the layer’s hidden values one step before; W, U and b were learned. ⊙ multiplies unit by unit.";
const shortNames = {cell: "Cell state", hidden: "Hidden state", forget: "Forget gate", input: "Input gate", candidate: "Candidate",
  output: "Output gate", update: "Update gate", reset: "Reset gate"};
const signalOrder = Object.keys(kind.signals);
