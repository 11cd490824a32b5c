"""Every knob of groot_jax with its default; an experiment's file changes a few of them.

Override on the command line: `--config.groot.tau=0.2`. Names and types are checked: an unknown key
or a value of another type ends the job with a sentence that names the nearest known keys.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    # Of initial parameters, order of sentences, swaps, masks, dropout, corrections.
    config.seed = 0

    config.data = ConfigDict()
    # auto | columns | seq | jsonl | arrow | tfds | retail. `auto` looks at the files; docs/data.md
    # shows the smallest example of each.
    config.data.reader = "auto"
    # Relative paths below start here; empty: the environment variable GROOT_DATA_DIR, else the cwd.
    config.data.dir = ""
    # Paths of the splits (for `seq`: the folders that hold seq.in and seq.out).
    config.data.train = ""
    config.data.dev = ""  # Empty: carve `dev_fraction` out of train with `split_seed`.
    config.data.test = ""  # Empty: carve `test_fraction` out of train, if that is above 0.
    config.data.dev_fraction = 0.1  # Share of train; read without data.dev.
    config.data.test_fraction = 0.0  # The same for data.test.
    config.data.split_seed = 0  # Which sentences are carved, or kept by `train_limit`.
    config.data.column_order = "auto"  # auto | tag_first | word_first (first and last column)
    # Columns of the words and of the tags, numbered from 1, negative from the end; 0: as the file
    # shows, which is refused where it shows two.
    config.data.word_column = 0
    config.data.tag_column = 0  # Of the tags, in the same way.
    config.data.separator = "auto"  # auto | tab | space
    # auto | bio | iob1 | bioes | bilou | bmes | ioe1 | ioe2 | io, for all splits, or each for its
    # own: "train=bio,dev=iob1". `auto`: what the fewest tags of a split break.
    config.data.scheme = "auto"
    # Tags of files that number them, in the order of their numbers: "O,B-PER,I-PER".
    config.data.tag_names = ()
    config.data.comment = ""  # Lines of a column file that start with this are skipped; "" = none.
    # What a bad line gets: `error` ends the job, `skip` drops its sentence and counts it.
    config.data.policy = "error"
    # A type in dev or test that train lacks: `error`, or `keep` it as gold beyond reach.
    config.data.unknown_types = "error"
    config.data.tfds_name = ""  # For reader tfds: a data set's name, or `groot_columns`, ours.
    config.data.tfds_dir = ""  # Where TFDS keeps prepared data; empty: TFDS's own default.
    config.data.words_feature = "tokens"  # Of a TFDS set: the feature with the words,
    config.data.tags_feature = "tags"  # and the one with their tags, text or class labels.
    # Keep only so many training sentences, drawn with `split_seed`; 0 = all.
    config.data.train_limit = 0
    # Files or folders of sentences whose labels, if they have any, are not read; commas between
    # several. Stage 1 learns from them by `groot.unlabeled`.
    config.data.unlabeled = ()
    config.data.retail_seed = 0  # The seed of the generated corpus, for reader `retail`.
    # Chance of each span of a training sentence to be swapped for another mention of its type from
    # the training split (Dai and Adel, arXiv 2010.11683): drawn anew for each epoch, in both
    # stages. A sentence that would fit no size of batch then stays as it is. 0 = off.
    config.data.augment = 0.3
    # For `aligned`: chance of each training word, anew in each step, to be shown without its own
    # embedding, by its ends and shape alone, as a word that training does not have.
    config.data.hide_words = 0.1

    config.text = ConfigDict()
    # auto | aligned | sentinel_tag | fused_sentinel | tag_only | input_tag. `auto`: sentinel_tag,
    # which is text, where `model.init` names a released model; aligned from scratch, and where it
    # names what groot_jax.pretrain made from scratch.
    config.text.format = "auto"
    # `train`: a SentencePiece model trained on the training words, sentinels and tags as whole
    # pieces. Otherwise a Hugging Face T5 tokenizer: Hub name, folder, or a spiece.model file.
    # `byt5`: bytes. `auto`: that of `model.init`, or `train` where there is none.
    config.text.tokenizer = "auto"
    config.text.vocab_size = 2000  # Word pieces of a trained tokenizer, at most.
    # For `aligned`: features of words (the word, its ends, its shape) with an embedding of their
    # own, at most; those that occur most often in the training words.
    config.text.max_features = 16000
    config.text.lowercase = False  # Lower-case words before they are encoded.
    # How text becomes words, in training on spans of characters and in predict: spaces | unicode
    # (Unicode's word boundaries, punctuation apart; scripts without spaces by character) |
    # punctuation (those, parted within words too: Ann's is Ann ' s).
    config.text.split = "spaces"
    # Longer sentences get `data.policy`. 0: as many as the longest of the data has, at least 100;
    # 100 with windows and in groot_jax.pretrain. Formats with sentinels take no more than a
    # pretrained T5 has of them, 100.
    config.text.max_words = 0
    # refuse | window: what is over the limit is cut into windows, in training, evaluation and
    # predict, and the labelings of windows are joined where they are surest.
    config.text.long_sentences = "refuse"
    config.text.overlap = 16  # Words that neighbouring windows share, at most half of one.

    config.model = ConfigDict()
    config.model.preset = "nano"  # pico (to try things out) nano mini small base large xl xxl
    # For presets: v1_0 | v1_1 (gated GELU, untied head) | tied (gated GELU, the embedding as head).
    config.model.variant = "tied"
    config.model.encoder_layers = 0  # Layers from scratch; 0: as many as the preset has.
    config.model.decoder_layers = 0  # The same for the other stack.
    # How a model from scratch starts with text.format=aligned; see groot_jax/model/scratch.py.
    config.model.start = ConfigDict()
    config.model.start.embedding = 0.1  # Factor of T5's initial embedding.
    config.model.start.residual = 0.1  # Factor of the last kernel of each residual branch.
    config.model.start.local = 8.0  # Bias of the encoder's first heads to one neighbour each.
    # Hugging Face folder or Hub id to start from, or the model that groot_jax.pretrain left, or the
    # work directory of a labeler that is to be trained on; empty: from scratch.
    config.model.init = ""
    # Of a labeler: which of its systems, empty: the last one trained; and which of its checkpoints.
    config.model.init_system = ""
    config.model.init_checkpoint = "best"  # best (on its dev split) | latest | a step.
    config.model.dtype = "float32"  # float32 | bfloat16: the type of matrix products.
    config.model.dropout = 0.1  # In stage 0; stage 1 has `groot.dropout`.
    # Activations recomputed in the backward pass, for memory: none | dots (all but the products
    # with weights) | full (all within a block).
    config.model.remat = "none"
    # The update's blocks as one loop instead of one after the other: a large model then compiles
    # in a fraction of the time, for a copy of the weights in each step. Only with remat=full: see
    # docs/scaling.md.
    config.model.scan_layers = False
    # Output columns that the softmax runs over: `legal` (those that the format can emit) or `full`.
    config.model.normalise = "legal"

    config.generate = ConfigDict()
    config.generate.k = 10  # Beams, and candidates returned.
    config.generate.grammar = True  # Only well-formed outputs.
    config.generate.length_penalty = 0.0  # s(y) / T^penalty ranks the beam; 0: by s(y) itself.

    config.reward = ConfigDict()
    # f1, f0.5, f2, ... | exact | precision | recall | utility | token_accuracy, a weighted sum
    # such as "0.7*f0.5 + 0.3*exact", or a Python function `package.module:function`.
    config.reward.name = "f1"
    config.reward.type_weights = ""  # Weights of types in F-beta: "brand=2, color=0.5"; others 1.
    config.reward.wrong_cost = 2.0  # c of `utility`: a wrong span costs c times a missed one.
    # Taken off the reward of an output that the format cannot read; the grammar allows none.
    config.reward.malformed_penalty = 0.1
    # The Python function takes and returns lists, one item a candidate.
    config.reward.batch = False
    # Scoring processes; 0: inside the job; -1: as 0 for built-in rewards, for a Python function
    # cores - 1, at most 8. One that waits for a model or a service wants more: those that wait need
    # no core.
    config.reward.workers = -1
    config.reward.deadline = 10.0  # Seconds that one call may take.
    # Times that a call is made once more after an error, 0.5, 1, 2, ... seconds later; and times
    # that another process takes up the work of a scoring process that ended or hung.
    config.reward.retries = 2
    # stop | drop, when all that failed. drop: the candidate leaves its sentence's pool and is
    # counted. A reward that returns None leaves a candidate out by itself.
    config.reward.on_error = "stop"
    # Share of candidates that may be dropped so: of the last 1,000 that training has asked for, and
    # of an evaluation. With more, a service that is away say, the run ends, after a save.
    config.reward.max_dropped = 0.1
    # Seconds without a sign of life, outside of calls, until a scoring process counts as lost.
    config.reward.timeout_s = 60.0

    config.optimizer = ConfigDict()
    config.optimizer.weight_decay = 0.0  # Times the learning rate; of weights, not of norms.
    config.optimizer.clip = 10.0  # Global norm; 0 = none. Stage 1 has its own.
    # AdamW's, in Muon as well: how long gradients are remembered, .9: some ten updates;
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.98  # and their squares, some fifty.
    # When a loss or a gradient is no finite number: stop | skip (leave that update out).
    config.optimizer.nonfinite = "stop"
    config.optimizer.max_skipped = 10  # Updates left out in a row, after which training ends.
    # Nats by which gold's mean log-probability may fall, over 20 updates or more since an
    # evaluation; then dev is evaluated at once, and a system that has lost half of its reward (of
    # pretraining: doubled its loss) has collapsed and ends. 0: it never does.
    config.optimizer.max_gold_drop = 5.0
    # Decay of an exponential moving average of the parameters, in every stage and system; 0: none.
    # With it, the average is what is evaluated, chosen as best and used, for one copy of them more.
    config.optimizer.ema = 0.0

    # Before stage 0, by a job of its own (groot_jax.pretrain): text without labels. Spans of it are
    # masked, and the model learns to write them.
    config.pretrain = ConfigDict()
    # Files: one sentence a line, or JSON lines with `text` or `words`. Commas between several.
    config.pretrain.text = ()
    config.pretrain.batch_size = 128  # Texts of an update.
    config.pretrain.epochs = 10.0  # Passes over the text, masked anew in each.
    config.pretrain.optimizer = "adamw"  # adamw | muon | adafactor
    config.pretrain.learning_rate = 2e-3  # At the end of the warm-up.
    config.pretrain.warmup = 0.05  # Share of the updates.
    config.pretrain.schedule = "cosine"  # constant | linear | cosine, towards `final_scale`.
    config.pretrain.final_scale = 0.1  # Share of the learning rate that the decay ends at.
    config.pretrain.average = "token"  # token | sentence, as config.nll.average.
    config.pretrain.label_smoothing = 0.0  # Share of a label spread over all that can be written.
    # Share of the positions that are masked (at least one a sentence), and the mean length of the
    # spans that they form: T5's. A position is a word with text.format=aligned, else a piece.
    config.pretrain.corrupt = 0.15
    config.pretrain.mean_span = 3.0  # In positions.
    config.pretrain.rdrop = 0.0  # As config.nll.rdrop.
    config.pretrain.eval_every = 0.5  # Epochs between evaluations on the dev part.
    # Stop after so many evaluations since the one with the lowest dev loss; 0 = never.
    config.pretrain.patience = 0
    # Share of the distinct texts set aside with data.split_seed to measure the loss on, and how
    # many at most; 0 = no limit.
    config.pretrain.dev_fraction = 0.05
    config.pretrain.dev_limit = 2000  # Texts.

    # Stage 0: maximum likelihood of gold.
    config.nll = ConfigDict()
    config.nll.enabled = True  # False: stage 1 starts from the initial parameters.
    # A work directory whose best stage-0 checkpoint is taken instead of training one.
    config.nll.checkpoint = ""
    config.nll.batch_size = 32  # Sentences of an update.
    config.nll.epochs = 16.0  # Passes over the training split.
    # adamw | muon (fewer epochs, dearer updates: docs/from_scratch.md) | adafactor
    config.nll.optimizer = "adamw"
    config.nll.learning_rate = 1e-3  # At the end of the warm-up.
    config.nll.warmup = 0.05  # Share of the updates.
    config.nll.schedule = "cosine"  # constant | linear | cosine, towards `final_scale`.
    # Share of the learning rate that the decay ends at: an update after the last would have it.
    config.nll.final_scale = 0.1
    # token | sentence: what the mean of -s(gold) runs over. Batches hold sentences of like length,
    # so that a mean over their tokens makes more of the tokens of short ones.
    config.nll.average = "sentence"
    config.nll.label_smoothing = 0.0  # Share of a label spread over the legal columns.
    # R-Drop's weight: each sentence is read twice, with dropout of its own, and both shall agree.
    # 0: once, in half the time.
    config.nll.rdrop = 0.0
    config.nll.eval_every = 2.0  # Epochs between evaluations on dev.
    # Stop after so many evaluations since the best one (see config.checkpoint.tie); 0 = never.
    config.nll.patience = 4

    # Stage 1: generate, correct, contrast. `variants` below are other systems under equal updates.
    config.groot = ConfigDict()
    config.groot.batch_size = 16  # Sentences of an update, each with its pool.
    config.groot.epochs = 1.0  # Passes over the training split.
    config.groot.optimizer = "adamw"  # adamw | muon | adafactor
    config.groot.learning_rate = 1e-4  # At the end of the warm-up.
    config.groot.warmup = 0.05  # Share of the updates.
    config.groot.schedule = "linear"  # constant | linear | cosine, towards `final_scale`.
    config.groot.final_scale = 0.1  # Share of the learning rate that the decay ends at.
    config.groot.clip = 10.0  # Global norm of the gradient; 0 = none.
    config.groot.dropout = 0.1  # In the update; generation has its own, below.
    config.groot.tau = 0.3  # Temperature: the target is s_i - s_j = (R_i - R_j) / tau.
    config.groot.nll_weight = 2.0  # lambda: of the mean of -s(gold), beside the contrast.
    config.groot.nll_average = "sentence"  # token | sentence, as config.nll.average.
    config.groot.loss = ConfigDict()  # One weight each; their sum is the contrast.
    config.groot.loss.margin = 0.4  # Hinge of (R_i - R_j) / tau - (s_i - s_j), mean over pairs.
    # The same times R_i - R_j, for annotators who disagree: a pair comes in the order of expected
    # reward, where `margin` takes a majority vote. As rewards are at most 1 and the mean is over
    # all pairs, equal ones too, it wants a larger weight than `margin`.
    config.groot.loss.weighted_margin = 0.0
    config.groot.loss.listwise = 0.0  # KL divergence of softmax(s) from softmax(R / tau).
    config.groot.loss.logistic = 0.0  # As `margin`, softplus for the hinge: never quite content.
    config.groot.loss.squared = 0.0  # As `margin`, the square for the hinge.
    config.groot.loss.rank = 0.0  # BRIO's: of length-normalised scores, margin by rank.
    # LambdaLoss as in LiPO (`lambda` alone is a word of Python's): a pair counts by what a swap of
    # its ranks would change in the list's DCG, so that the top of the list matters most.
    config.groot.loss.lambdarank = 0.0
    config.groot.loss.risk = 0.0  # Expected 1 - R under softmax(s) over the pool.
    config.groot.loss.reinforce = 0.0  # Policy gradient, with the pool's mean as baseline.
    config.groot.rank_margin = 0.05  # lambda of BRIO's rank loss.
    config.groot.reinforce_normalise = False  # Divide advantages by the pool's deviation (GRPO).
    config.groot.pool = ConfigDict()
    config.groot.pool.size = 16  # M: candidates of a pool, at most.
    config.groot.pool.gold = True  # Gold is a candidate, of reward 1.
    config.groot.pool.beams = 8  # At most so many distinct non-gold beam candidates.
    config.groot.pool.corrections = True  # What is left is filled with mended candidates.
    # So many labelings that the beam lacks, made of its spans: those of the highest expected
    # reward (see docs/decisions.md). They come before corrections.
    config.groot.pool.consensus = 0
    # a: the reward of y is (1 - a) R(y, gold) + a * sum of p(u) R(y, u) over the labelings u of the
    # beam, which asks the reward for k times as many values. 0: gold alone.
    config.groot.expected = 0.0
    # What the beam's scores are divided by before p is their softmax, here, in pool.consensus and
    # for unlabeled sentences. (`consensus`, the decision rule, has one that dev chooses.)
    config.groot.temperature = 1.0
    # Share of the updates whose sentences are those of data.unlabeled. Their consensus stands for
    # gold, in the pool and in the NLL term, and a is 1.
    config.groot.unlabeled = 0.0
    # Whose beams say what an unlabeled sentence's consensus is: start (the parameters that stage 1
    # starts from, kept beside the others) | policy (those in training).
    config.groot.teacher = "start"
    config.groot.lag = 1  # Updates that the generating policy may lag behind; 0: on-policy.
    # Encoder dropout while generating: beams of training sentences as noisy as those of dev.
    config.groot.generate_dropout = 0.2
    config.groot.accumulate = 1  # Update a batch in so many parts when memory is short.
    config.groot.eval_every = 0.5  # Epochs between evaluations on dev.

    # Systems trained after stage 0, in this order, each from its best checkpoint.
    config.systems = ("nll_continued", "groot")
    # A system's name -> what it changes in `config.groot`.
    config.variants = ConfigDict()
    config.variants.groot = ConfigDict()
    # Whatever `groot.loss` is made of, these two have none of it.
    none = dict.fromkeys(config.groot.loss, 0.0)
    config.variants.nll_continued = ConfigDict({"loss": none, "unlabeled": 0.0})
    config.variants.risk = ConfigDict({"loss": none | {"risk": 5.0}})
    config.variants.no_corrections = ConfigDict({"pool": {"corrections": False}})

    config.evaluate = ConfigDict()
    config.evaluate.batch_size = 64  # Sentences searched at once, by predict too.
    # During training, only so many dev sentences are evaluated, the first ones; 0 = all.
    config.evaluate.dev_limit = 2000
    # Rewards reported on every split, beside the training reward; comma separated.
    config.evaluate.rewards = "f1, f0.5, f2, exact, precision, recall"
    # Decision rules reported of every system: map (the most likely labeling), mbr (of the beam, the
    # one with the highest expected reward), threshold (doubtful spans dropped), consensus (as mbr,
    # among more labelings than the beam holds).
    config.evaluate.decide = ("map", "mbr", "threshold", "consensus")
    config.evaluate.bootstrap = 1000  # Resamples of the paired bootstrap.
    config.evaluate.samples = 60  # Sentences kept for the report's browser.

    config.decide = ConfigDict()
    config.decide.hypotheses = 64  # Labelings of a sentence that consensus chooses among, at most.

    # A checkpoint is written before every evaluation on dev, and in between: by time, by steps, and
    # when a signal or an error ends the job. The best and the latest are kept.
    config.checkpoint = ConfigDict()
    config.checkpoint.every_minutes = 10.0  # Minutes of training between two; 0: not by time.
    config.checkpoint.every_steps = 0  # Updates between two; 0: not by updates.
    # Latest checkpoints kept, beside the best. Two at least, whatever stands here: where the newest
    # is damaged, training goes on from the one before.
    config.checkpoint.keep = 2
    # Minutes for which a save that fails is tried again while training goes on; then the job ends.
    config.checkpoint.retry_minutes = 5.0
    # An evaluation becomes the best where the best before it is more than `tie` below the highest
    # dev reward at rank 1, or where it is itself within `tie` of that and has the higher mean over
    # the top k. (Of pretraining: where its loss is the lowest.)
    config.checkpoint.tie = 0.005

    # Updates between lines of metrics.jsonl; there is one before each evaluation as well.
    config.log_every = 50
    # Where else metrics go: tensorboard (files in the work directory), wandb (needs the extra of
    # that name), both, or () for neither.
    config.report_to = ("tensorboard",)
    config.profile = ConfigDict()
    # "10:20": a trace, for XProf, of the ten updates that follow the tenth, of each system that is
    # trained; "" = none.
    config.profile.steps = ""

    config.loader = ConfigDict()
    # Batches are padded to at most `rungs` sizes (source, target), each with programs of its own;
    # fewer where no more than a share `padding` of all positions is padding then.
    config.loader.rungs = 8
    config.loader.padding = 0.13  # See above.
    # Lengths that a size may have. A TPU likes multiples of 8, and of 128 the longest.
    long = (*range(36, 68, 4), *range(72, 136, 8), 160, 192, 256)
    config.loader.source_buckets = (*range(4, 34, 2), *long)  # In source positions.
    config.loader.target_buckets = (*range(4, 34), *long)  # In decoder steps, EOS included.
    # Nodes of a bin, which holds the token trees of some sentences; a tree beyond the last gets a
    # multiple of it. Few sizes mean few programs, and trees of all sizes fill a bin well.
    config.loader.node_buckets = (32, 64, 128, 256, 512, 1024)
    config.loader.threads = 2  # Make batches ahead of the device; 0: in the loop itself.

    config.mesh = ConfigDict()  # Sizes of the mesh axes; -1: the devices that are left.
    config.mesh.data = -1  # Sentences are split, parameters are whole on each device.
    config.mesh.fsdp = 1  # Sentences and parameters are split; gathered where they are used.
    config.mesh.tensor = 1  # Parameters are split, and so is the work on each sentence.
    # Mesh axes that each logical axis of parameters and activations is split over: "" = none,
    # several with commas. A dimension that they do not divide is not split.
    config.mesh.rules = ConfigDict()
    config.mesh.rules.batch = "data,fsdp"  # Sentences, their candidates, caches and tree bins.
    config.mesh.rules.vocab = "tensor"  # Rows of the embedding, columns of the head.
    config.mesh.rules.embed = "fsdp"  # The model dimension of parameters.
    config.mesh.rules.mlp = "tensor"  # The inner dimension of feed-forward blocks.
    config.mesh.rules.joined_kv = "tensor"  # Heads times head dimension, of parameters.
    config.mesh.rules.heads = "tensor"  # Of activations.
    config.mesh.rules.hidden = ""  # The model dimension of activations.
    config.mesh.rules.relpos_buckets = ""  # Of the relative bias: a few KiB.
    config.mesh.rules.norm = ""  # Scales of layer norms.
    # When fsdp or tensor leaves over 2 % of the parameters' bytes replicated: warn | error | allow.
    config.mesh.replicated = "warn"
    # How devices' gradients are added. ordered: in one order, so that any number of processes gets
    # the same bits (data axis alone); any: as is fastest; auto: ordered on CPUs where it can be.
    config.mesh.sums = "auto"

    # Runs of several processes; see docs/launch.md.
    config.distributed = ConfigDict()
    config.distributed.start_timeout = 300.0  # Seconds until all have to be there.
    config.distributed.timeout = 60.0  # Seconds after which a silent one counts as dead.

    config.compilation_cache = "~/.cache/groot_jax/xla"  # Compiled programs between runs; "" = off.
    return config
